"""Causal language models: loading and saving, their shapes, the embedded ones, and their pre-training."""
