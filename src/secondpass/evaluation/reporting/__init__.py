"""Reports of an analysis: for the terminal, as JSON and CSV, and as one HTML page."""
