"""What Elasticsearch and OpenSearch need alike for a search in two passes; it imports the client of neither."""
