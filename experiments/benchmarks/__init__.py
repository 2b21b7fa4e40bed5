"""Benchmarks: targets of time and of robustness, which tests do not hold."""
