"""Answers that follow a JSON Schema."""
