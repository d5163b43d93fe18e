"""Finished pictures: PNG with a recipe, reading, enlarging."""
