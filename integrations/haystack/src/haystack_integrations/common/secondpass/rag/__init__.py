"""Questions to a pipeline that answers: retrieve, rerank, read or generate."""
