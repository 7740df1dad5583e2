"""Ranking speed beside sentence-transformers and its backends: `python -m benchmarks.inference --help`."""
