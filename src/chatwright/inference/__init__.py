"""Sampling answers from a model: filters over logits, and a small batched engine with a key-value cache."""
