"""LoRA files, read by their headers: their naming schemes, and the changed layers of the checkpoint."""
