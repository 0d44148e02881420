"""Run models: one protocol, one folder an engine."""
