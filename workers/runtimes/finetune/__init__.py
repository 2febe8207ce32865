"""Fine-tune a causal language model with LoRA: samples, trainer, evaluation, manifest.

Knows nothing of where model and dataset came from, nor of where the adapter goes.
"""
