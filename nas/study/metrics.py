"""The downstream metrics of trained models, each defined once, for records, reports and docs. Pure.

A record holds metrics by name; one that exists for every teacher is named ``retrieval/TEACHER``.
"""

from __future__ import annotations

from dataclasses import dataclass

BUILT_IN_DATA = "the built-in data"
_LABELED = "labeled data other than the built-in, with up to {} classes"


@dataclass(frozen=True)
class Metric:
    """A metric of a model's frozen features on held-out images. Its values are 0 to 1, and higher is better.

    Attributes:
        label: Its name in tables and charts.
        unit: What its values are shares of, or the statistic.
        measures: What it measures, in one sentence.
        chance: How the chance level, the value of a constant guess, is computed.
        data: The data that has it.
        in_tables: Whether the report's tables of models have a column of it; else only a model's card shows it.
    """

    label: str
    unit: str
    measures: str
    chance: str
    data: str
    in_tables: bool = True


# In the order of the report.
METRICS: dict[str, Metric] = {
    "glyph_retrieval": Metric(
        "glyph retrieval",
        "recall at 1",
        "Share of glyphs never seen in training whose nearest of 10 glyphs, by the cosine of the spatial features "
        "averaged over the glyph, is the same one in another pose on another background.",
        "1 / 10 glyphs in a gallery",
        BUILT_IN_DATA,
    ),
    "figure_iou": Metric(
        "figure-ground IoU",
        "intersection over union",
        "Pixels of the glyphs found by a linear probe of the spatial features, at the best threshold for all images.",
        "the glyphs' share of the pixels: the IoU of calling every pixel a glyph's",
        BUILT_IN_DATA,
    ),
    "edge_ap": Metric(
        "edge AP",
        "average precision",
        "Pixels within 1/32 of the image's side of a glyph's outline, ranked by a linear probe of the spatial "
        "features.",
        "the edges' share of the pixels",
        BUILT_IN_DATA,
    ),
    "knn": Metric(
        "kNN",
        "accuracy",
        "Classes of images by their 20 nearest training images, by the cosine of the summary features.",
        "the most frequent class's share of the images",
        _LABELED.format("2,000"),
    ),
    "probe": Metric(
        "linear probe",
        "accuracy",
        "Classes of images by logistic regression on the summary features.",
        "the most frequent class's share of the images",
        _LABELED.format("300"),
    ),
    "miou": Metric(
        "mIoU",
        "mean intersection over union",
        "Classes of pixels by a linear probe of the spatial features, averaged over the classes.",
        "the most frequent class's share of the pixels / number of classes",
        "data with masks other than the built-in",
    ),
    "zero_shot": Metric(
        "zero-shot",
        "accuracy",
        "Classes of images by the nearest class name, which a teacher's text tower embeds in several prompts.",
        "the most frequent class's share of the images",
        "data with class names, for teachers with a text tower",
    ),
    "retrieval": Metric(
        "retrieval",
        "recall at 1",
        "Share of images whose own teacher summary is the nearest of all to a linear map of the model's summary.",
        "1 / number of held-out images",
        "all data, for each teacher",
        in_tables=False,
    ),
}


def is_in_tables(name: str) -> bool:
    """Return whether the report's tables have a column of a record's metric; ``retrieval/hed`` is a "retrieval"."""
    known = METRICS.get(name.partition("/")[0])
    return known is not None and known.in_tables


def metric_label(name: str) -> str:
    """Return a metric's label: ``retrieval/hed`` is "retrieval, hed"; an unknown metric's label is its name."""
    kind, _, teacher = name.partition("/")
    known = METRICS.get(kind)
    return (known.label if known else kind) + (f", {teacher}" if teacher else "")
