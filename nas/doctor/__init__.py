"""``backbone-nas doctor``: what this machine is, what will not work on it and how to mend it."""
