"""The command line: a file for each group of commands."""

from imagegen_core.cli.app import main

__all__ = ["main"]
