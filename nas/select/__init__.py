"""``backbone-nas select``: the best candidate of a study within limits."""
