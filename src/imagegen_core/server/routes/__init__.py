"""Routes, with one file per group: each route parses, calls the context, and answers."""
