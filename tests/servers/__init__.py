"""Real Elasticsearch and OpenSearch servers for tests and for play, without Docker.

problems, archives, java, running → cache → settings → certificates → security → installing → instance (with guard)
→ containers → sources → fixtures, __main__.
"""
