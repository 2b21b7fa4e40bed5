"""``backbone-nas race``: train the plausible candidates of a study for long, and name the one that holds."""
