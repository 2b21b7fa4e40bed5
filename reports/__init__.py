"""Reports of studies: numbers (`summary`), then charts (`charts`, `paper_figures`), then one HTML file (`page`).

Reports read a study's records and nothing else. They need neither torch nor ray, so a study opens on any laptop.
"""
