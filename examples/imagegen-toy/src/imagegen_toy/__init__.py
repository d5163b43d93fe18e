"""A backend for imagegen that draws clouds of colour."""
