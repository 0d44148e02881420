"""The server: HTTP API, sessions, engines, metrics and `lookonce serve`."""

from lookonce_torch import install

install()  # before anything here imports transformers
