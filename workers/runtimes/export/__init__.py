"""Exports: models of the catalog written for other programs."""
