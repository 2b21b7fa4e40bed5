"""``backbone-nas train``: distil one architecture, for as long as it takes."""
