"""The server: HTTP API, sessions, engines, metrics and `lookonce serve`."""
