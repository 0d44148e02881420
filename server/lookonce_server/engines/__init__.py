"""Engines run models: one protocol, one folder an engine."""
