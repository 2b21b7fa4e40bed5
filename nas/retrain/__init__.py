"""``python -m nas.finals``: the best of a study trained again, longer and with more seeds, and how sure its front is.

Deciding (`scatter`, `chances`, `selection`, `standing`, `agreement`) is pure; `crew` trains.
"""
