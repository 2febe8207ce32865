"""Launched models: where they answer, and the OpenAI-compatible gateway. Knows nothing of how they were loaded."""
