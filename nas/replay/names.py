"""Names that commands know without reading any table."""

BENCHES = ("nasbench201",)
# Accuracies from which hypervolume counts: about the 28th percentile of all cells.
REFERENCES = {"cifar10": 85.0, "cifar100": 60.0, "imagenet16": 30.0}
DATASETS = tuple(REFERENCES)
SOURCES = ("parameters", "cost", "size", "structure", "proxies")  # of what is known of a cell before it is trained
KNOWN_BY_DEFAULT = ("cost", "structure")
COMPARED = ("known-cost", "random", "nsga2", "tpe")
