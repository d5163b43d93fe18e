"""Model files: their contents, and the path of a configured name. Nothing here imports torch."""
