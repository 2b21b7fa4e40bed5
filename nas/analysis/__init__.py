"""Analyze a study without side effects: fronts under noise, retrainings, remeasurements, answers to limits.

Commands and reports use it; it imports no torch, no ray and no optuna.
"""

# What a user may name in place of trials' numbers; here, because the commands' help needs nothing else of this package.
WHICH = ("front", "near", "all")
BEST = "best"
