"""Middleware: each class does one task for every request before its route."""
