"""LoRA files, read by their headers: their naming schemes, and the layers of the checkpoint that they change."""
