"""llama.cpp in this process, for GGUF files. Knows nothing of HTTP."""
