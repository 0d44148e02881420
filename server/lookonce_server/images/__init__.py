"""Images of requests: read, fetched and decoded, within limits."""
