"""What both search servers need alike of a search in two passes: candidates, the ranking, and showing it."""
