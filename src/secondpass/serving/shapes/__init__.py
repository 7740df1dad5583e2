"""The requests and answers of each API that clients speak, and their way to and from pairs of texts."""
