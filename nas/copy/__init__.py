"""The command ``backbone-nas copy``: a run folder with its study, for another machine."""
