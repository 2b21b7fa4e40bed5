"""Studies side by side: what compares, the numbers, the pictures, one page. `python -m reports.compare RUN_A RUN_B`."""
