"""Read recipes and data sets of other tools without changes to their files."""
