"""Distill several teachers into a student: heads, losses, balances, the trainer, distribution and evaluation."""
