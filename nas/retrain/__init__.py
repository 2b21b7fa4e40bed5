"""``python -m nas.retrain``: train the front of a study again, longer and with more seeds."""
