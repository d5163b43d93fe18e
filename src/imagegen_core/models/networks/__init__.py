"""The networks of a checkpoint: their layers by diffusers' and transformers' names, and configs from their shapes."""
