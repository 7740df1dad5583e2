"""A corpus into a pipeline, queries through it, and what both passes found."""
