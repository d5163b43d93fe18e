"""Pictures once they are drawn: PNG with its recipe, reading, enlarging."""
