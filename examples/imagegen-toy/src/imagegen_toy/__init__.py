"""A backend for imagegen: it draws clouds of colour."""
