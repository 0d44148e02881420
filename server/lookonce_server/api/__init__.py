"""The HTTP API, OpenAI-shaped."""
