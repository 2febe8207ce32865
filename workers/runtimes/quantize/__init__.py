"""Quantize jobs: models of the catalog written with weights of few bits."""
