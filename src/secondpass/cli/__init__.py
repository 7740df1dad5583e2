"""The `secondpass` command: rank and score here, further commands from this distribution's other packages."""

from secondpass.cli.program import app, main

__all__ = ["app", "main"]
