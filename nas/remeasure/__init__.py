"""``backbone-nas remeasure``: measure candidates of a study again, and show what that changes."""
