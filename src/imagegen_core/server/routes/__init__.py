"""One file a family of routes: each parses, calls the studio, and answers."""
