"""Compare studies on one page: which numbers share a scale (`comparability`), the numbers, and the page."""
