"""Run inside vLLM's processes: a KV connector."""
