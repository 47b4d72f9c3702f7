"""Recipes and data backends of SimpleTuner, in the names of this package."""

from .recipes import TranslatedRecipe, ignored_options, read_recipe, translate_recipe

__all__ = ["TranslatedRecipe", "ignored_options", "read_recipe", "translate_recipe"]
