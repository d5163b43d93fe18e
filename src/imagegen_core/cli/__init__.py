"""The command line: one file per group of commands."""

from imagegen_core.cli.app import main

__all__ = ["main"]
