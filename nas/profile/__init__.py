"""The work behind ``python -m nas.profile``: one network in depth, several side by side, or a sample of a space."""
