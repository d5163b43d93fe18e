"""Finished pictures: PNG with a recipe, and enlarging."""
