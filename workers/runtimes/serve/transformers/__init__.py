"""The engine that runs everywhere: one forward pass of a transformers model for many answers at a time.

Knows nothing of HTTP.
"""
