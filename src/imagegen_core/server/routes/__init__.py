"""One file a family of routes: each parses, calls the context, and answers."""
