"""Encoding pictures."""
