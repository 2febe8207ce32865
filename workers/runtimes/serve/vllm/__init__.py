"""vLLM as a server process of its own. Knows nothing of HTTP beyond its address."""
