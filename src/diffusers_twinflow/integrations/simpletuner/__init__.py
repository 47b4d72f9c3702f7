"""Translate recipes and data backends of SimpleTuner to the options of this package."""

from .recipes import TranslatedRecipe, ignored_options, read_recipe, translate_recipe

__all__ = ["TranslatedRecipe", "ignored_options", "read_recipe", "translate_recipe"]
