"""``backbone-nas retrain``: retrain the front of a study, longer and with more seeds."""
