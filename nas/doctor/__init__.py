"""``backbone-nas doctor``: check this machine: what will not work on it, and how to fix it."""
