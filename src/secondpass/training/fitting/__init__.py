"""`CrossEncoder.fit`, as sentence-transformers 3.4 has it."""
