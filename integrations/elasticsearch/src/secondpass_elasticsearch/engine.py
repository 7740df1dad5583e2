"""What Elasticsearch calls things."""

from __future__ import annotations

from secondpass_searching.engine import Engine

ELASTICSEARCH = Engine(
    title="Elasticsearch",
    command="elasticsearch",
    vector_type="dense_vector",
    length_key="dims",
    analysed_key="max_analyzed_offset",
    login="ELASTIC_API_KEY, or ELASTIC_USERNAME and ELASTIC_PASSWORD,",
    authority="ELASTICSEARCH_CA_FILE",
)
