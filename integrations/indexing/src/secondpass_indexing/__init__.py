"""What both search servers need of bulk indexing: nothing lost, nothing doubled, resumed where it stopped."""
