"""Compare studies on one page: which numbers share a scale (`comparability`), the numbers, and the page."""

LETTERS = "ABCDEF"  # names of the studies on the page
MAX_STUDIES = len(LETTERS)
