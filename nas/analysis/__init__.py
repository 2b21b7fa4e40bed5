"""Analyze a study without side effects: fronts under noise, retrainings, remeasurements, answers to limits.

Commands and reports use it; it imports no torch, no ray and no optuna.
"""

# What a user may name in place of trials' numbers; here, because the commands' help needs nothing else of this package.
WHICH = ("front", "near", "all")
BEST = "best"
# What ``backbone-nas retrain`` does without options; here, because the report says what that costs.
RETRAINED_SEEDS = 3
RETRAINED_TIMES_LONGER = 10  # as a race; steps, in those of the study's last rung
RETRAINED_NEAR_MISSES = 6  # near misses, at most
