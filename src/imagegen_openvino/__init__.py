"""Stable Diffusion on OpenVINO for imagegen."""
