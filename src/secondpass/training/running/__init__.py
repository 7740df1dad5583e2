"""A run: steps, gradients, what is written on the way, and how it is shared and resumed."""
