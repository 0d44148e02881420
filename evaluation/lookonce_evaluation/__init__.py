"""What is measured: accuracy by retention and selection, and speed. Tables go to docs/research/."""

from lookonce_server.engines.torch_extensions import install

install()  # before anything here imports transformers; it changes nothing where torchvision fits torch
