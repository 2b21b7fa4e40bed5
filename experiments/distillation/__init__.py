"""Experiments on the distillation recipe and its score."""
