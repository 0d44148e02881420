"""The wire format of a context."""
