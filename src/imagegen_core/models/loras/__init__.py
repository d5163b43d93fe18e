"""LoRA files, read by their headers: whose names they use, which layers they change, and whether these are there."""
