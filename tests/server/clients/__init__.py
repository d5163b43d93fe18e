"""Requests of client programs, in the shapes from the programs' source code."""
