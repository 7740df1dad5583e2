"""Elasticsearch and OpenSearch as the first pass of a search, and secondpass as its second.

`contract` says what a search server has to give; `elasticsearch` and `opensearch` give it, and nothing in front of them
imports a client of either.
"""
