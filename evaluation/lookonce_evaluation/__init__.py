"""Evaluation of accuracy and speed; its tables go to docs/research/."""

from lookonce_server.engines.torch_extensions import install

install()  # before anything here imports transformers; it changes nothing where torchvision fits torch
