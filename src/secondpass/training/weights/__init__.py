"""Which weights are trained, how fast, and which are kept."""
