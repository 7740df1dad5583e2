"""Bulk indexing into either search server: nothing lost, nothing doubled, resumed where it stopped."""
