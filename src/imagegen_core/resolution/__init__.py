"""How a name becomes a checkpoint, a style or a backend."""
