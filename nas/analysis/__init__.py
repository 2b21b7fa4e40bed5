"""Analyze a study without side effects: fronts under noise, retrainings, remeasurements, answers to limits.

Commands and reports use it; it imports no torch, no ray and no optuna.
"""

# What a user may name in place of trials' numbers; here, because the commands' help needs nothing else of this package.
WHICH = ("front", "near", "all")
BEST = "best"
# Lead in score over the best baseline. Candidates that led by as much after the few steps of a search led after longer
# training too, in all retrained searches; smaller leads often did not last: docs/results/index.md, "Which lead lasts?".
LASTING_LEAD = 0.04
# Of the candidates below the best baseline, half of those within this difference led it after longer training, and one
# of 96 others.
SMALL_SHORTFALL = 0.01
# What ``backbone-nas retrain`` does without options; here, because the report says what that costs.
RETRAINED_SEEDS = 3
RETRAINED_TIMES_LONGER = 3  # steps, in those of the study's last rung
RETRAINED_NEAR_MISSES = 6  # near misses, at most
