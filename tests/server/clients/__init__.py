"""The requests of programs that people point at the server, in the shapes that those programs' sources send them."""
