"""The demo model for imagegen: a tiny SDXL-architecture checkpoint."""
