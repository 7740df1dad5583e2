"""One YAML file that says all about a training run."""
