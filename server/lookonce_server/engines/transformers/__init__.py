"""Run models on transformers, in process, on a CPU or one GPU."""

from lookonce_server.engines.transformers.engine import TransformersEngine

__all__ = ["TransformersEngine"]
