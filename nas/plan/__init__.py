"""The cost of a search before anything runs: measured by a probe, simulated for clusters that are not here."""
