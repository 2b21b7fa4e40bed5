"""Pure analysis of a study: fronts under noise, what was trained or measured again, answers to limits.

Commands and reports read it; it imports no torch, no ray and no optuna.
"""
