"""The report of a study: numbers first (`summary`), then pictures (`figures`, `plates`), then one HTML file (`page`).

Reads a study's records only: neither torch nor ray is needed, so last year's study opens on a laptop.
"""
