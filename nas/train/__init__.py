"""``backbone-nas train``: distill one architecture, for as long as it takes."""
