"""Searches replayed on published results: every architecture's accuracy and latency is known, nothing is trained."""
