"""Recipes and data sets of other tools, read as they are."""
