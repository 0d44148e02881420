"""The HTTP interface, OpenAI-shaped."""
