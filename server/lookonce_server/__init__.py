"""The server: HTTP API, sessions, engines, metrics and the `lookonce serve` command."""
