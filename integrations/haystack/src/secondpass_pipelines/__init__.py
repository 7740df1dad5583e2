"""Haystack pipelines from the command line: search, ask, index, demo, and both passes over a labelled set."""

from __future__ import annotations
