"""The command ``backbone-nas plan``: predict the cost of a search by a short probe and a simulation."""
