"""Host many models in one process: load and unload them, share memory between them, and draw each mode."""
