"""What a model is taught by: losses over scored groups, by name or object."""
