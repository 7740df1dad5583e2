"""A large teacher to a small student."""
