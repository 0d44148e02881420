"""Hold answers to a JSON Schema."""
