"""stable-diffusion.cpp for imagegen."""
