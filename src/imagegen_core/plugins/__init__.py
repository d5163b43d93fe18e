"""How backends, named models and styles come in: entry points, pluggy hooks, and a look at what went wrong."""
