"""The part that runs inside vLLM's processes: a KV connector."""
