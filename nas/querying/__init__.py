"""The parts of ``python -m nas.query``: candidates, the answer, and how it is told. No torch, no ray."""
