"""What a search will cost, told before anything runs: measured by a probe, simulated for clusters that are not here."""
