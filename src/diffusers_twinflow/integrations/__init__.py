"""Read recipes and datasets of other tools without changes to their files."""
