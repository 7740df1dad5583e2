"""The `secondpass` command: rank and score here, further commands through the entry points secondpass.commands."""

from secondpass.cli.program import app, main

__all__ = ["app", "main"]
