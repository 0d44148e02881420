"""Run models on vLLM, with continuous batching, on GPUs or a CPU."""

from lookonce_server.engines.vllm.engine import VllmEngine

__all__ = ["VllmEngine"]
