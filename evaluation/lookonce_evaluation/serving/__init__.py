"""Parts of the vLLM engine's benchmark, `lookonce_evaluation.bench_vllm`."""
