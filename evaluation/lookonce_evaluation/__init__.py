"""Evaluation of accuracy and speed; its tables go to docs/research/."""

from lookonce_torch import install

install()  # before anything here imports transformers
