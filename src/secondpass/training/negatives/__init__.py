"""Documents that look relevant and are not: what a reranker learns most from."""
