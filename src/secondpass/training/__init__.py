"""Labelled examples to better weights: the loop behind `CrossEncoder.fit`."""
