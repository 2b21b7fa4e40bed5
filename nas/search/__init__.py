"""``backbone-nas search``: search a space of backbones; ends with a Pareto report."""
