"""``backbone-nas profile``: one network in depth, several compared, runtimes compared, or a sample of a space."""
