"""What can go wrong on the way to a server, in words a person can act on."""

from __future__ import annotations


class NoServer(Exception):
    """No server can be had in this way; the message is one line and says what is missing."""


class BrokenDownload(NoServer):
    """An archive arrived, twice, as something else than what was published; the message names it."""
