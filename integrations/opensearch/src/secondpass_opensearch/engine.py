"""What OpenSearch calls things."""

from __future__ import annotations

from secondpass_searching.engine import Engine

OPENSEARCH = Engine(
    title="OpenSearch",
    command="opensearch",
    vector_type="knn_vector",
    length_key="dimension",
    analysed_key="max_analyzer_offset",
    login="OPENSEARCH_USERNAME and OPENSEARCH_PASSWORD",
    authority="OPENSEARCH_CA_FILE",
)
