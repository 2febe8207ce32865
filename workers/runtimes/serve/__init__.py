"""Serve a model, or a model with an adapter, over HTTP in the manner of OpenAI's chat API, until stopped.

Knows nothing of who asks beyond a bearer token.
"""
