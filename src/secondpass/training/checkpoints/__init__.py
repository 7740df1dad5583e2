"""What a run leaves on disk, so that it can be killed at any moment."""
