"""Many models in one process: which are loaded, what they take, and what draws each mode."""
