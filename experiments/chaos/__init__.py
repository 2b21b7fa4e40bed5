"""The chaos campaign: break everything that a search stands on, one fault at a time, and check that nothing is lost."""
