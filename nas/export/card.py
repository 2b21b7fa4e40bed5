"""Write the model card in Markdown: use, score, speed and size with their settings, origin, license.

Names of teachers and data sets and the command are the searcher's input. All are shown as code, so that they can be
neither markup nor HTML.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from nas.analysis.evidence import StudyEvidence
from nas.analysis.noise import SeedScatter, assumed_scatter
from nas.analysis.recommendation import place_words
from nas.analysis.retraining import RetrainingSummary
from nas.analysis.run_files import TrainedWeights
from nas.numbers import fixed, fixed_interval, plural
from nas.redaction import card_command, card_name
from nas.study.config import compares_unit_vectors
from nas.study.objectives import SCORE_LABELS
from nas.study.records import Measurement, StudyRecord, TrialRecord
from nas.study.timing_doubts import no_interval, order_statistic_interval, throughput_interval, timing_doubt
from search_space import network_spec
from search_space.outline import outline

if TYPE_CHECKING:
    from nas.export.source import FormatReport, OutputShapes

LIBRARIES = {"timm": "timm", "hf": "transformers", "onnx": "onnx", "torchscript": "pytorch"}
BUILTIN_DATA = (
    "OpenMoji glyphs (CC-BY-SA-4.0) on crops of photographs from scikit-learn (CC-BY-2.0) and scikit-image (CC0 or "
    "public domain by its documentation, which names no license of the one from the Middlebury stereo benchmark)"
)
BEST_OF_SEEDS = "none: chosen for its score"  # in place of an interval
UNKNOWN_LICENSE = "unknown to this project: see the source of its weights"


@dataclass(frozen=True)
class CardData:
    """The content of a card apart from the report of its format."""

    evidence: StudyEvidence
    trial: TrialRecord  # with its deciding timing
    weights: TrainedWeights  # the exported ones
    latencies_s: Sequence[float]  # of the single-image calls of that timing
    command: str
    versions: dict[str, str]

    @property
    def study(self) -> StudyRecord:
        """Return the study with the deciding timings."""
        return self.evidence.study

    @property
    def retraining(self) -> RetrainingSummary | None:
        """Return the summary of the study's retrainings."""
        return self.evidence.retraining


def model_card(
    data: CardData,
    kind: str,
    report: FormatReport,
    shapes: OutputShapes,
    heads: Sequence[str],
    trained_px: int,
    folder: str,
) -> str:
    """Return README.md of an export.

    Args:
        data: content of the card.
        kind: the export's format.
        report: report of the format.
        shapes: shapes of the model's outputs at the size of images that the folder is for.
        heads: teachers whose heads are in the folder.
        trained_px: side of the images in distillation.
        folder: name of the folder.
    """
    quoted = json.dumps(folder, ensure_ascii=False)[1:-1]  # for double quotes in Python
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(),  # not for Markdown, whose filter `code` lets no markup through
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "codes": _codes, "fixed": fixed, "license": _teacher_license}
    return environment.get_template("card.md.j2").render(
        _facts(data),
        library=LIBRARIES[kind],
        kind=kind,
        report=report,
        shapes=shapes,
        heads=heads,
        trained_px=trained_px,
        usage=report.usage.replace("PX", str(shapes.image_px)).replace("FOLDER", quoted),
    )


def _facts(data: CardData) -> dict[str, Any]:
    """Return what the card tells of the study, the trial and its weights."""
    info, trial = data.study.info, data.trial
    m, config, images = trial.measurement, info.config, str(info.data.get("name", "unknown"))
    found = data.retraining.scatter if data.retraining else assumed_scatter(info)
    scatter = found.of_kind(trial.baseline)
    return {
        "info": info,
        "trial": trial,
        "m": m,
        "weights": data.weights,
        "outline": outline(network_spec(trial.spec)),
        "place": place_words(data.evidence, trial.number),
        "score_label": SCORE_LABELS[config["distill"].get("score", "spatial")],
        "scatter_words": scatter.words,
        "trainings": _trainings(data, scatter),
        "unit_vectors": compares_unit_vectors(config),
        "remeasured": data.evidence.remeasured.get(trial.number),
        "doubt": m and timing_doubt(m),
        "ends": m and _intervals(m, data.latencies_s),
        "images": card_name(images),
        "builtin_license": BUILTIN_DATA if images == "builtin" else "",
        "search_command": card_command(info.command),
        "export_command": card_command(data.command),
        "versions": ", ".join(f"{name} {version}" for name, version in data.versions.items()),
    }


def code(text: str) -> str:
    """Return any text as code on one line of Markdown, also in a table."""
    plain = " ".join(text.replace("`", "'").replace("|", "/").split())
    return f"`{plain}`"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(map(code, names))


def _trainings(data: CardData, scatter: SeedScatter) -> list[tuple[str, int, float, str]]:
    """Return name, steps, score and interval of the exported weights, and of the mean over seeds.

    Those of several seeds were chosen for their score, so that an interval around it would be too high.
    """
    weights = data.weights
    name, interval = f"exported weights: {weights.origin}", scatter.interval_words([weights.result.score])
    rows = []
    for candidate in data.retraining.candidates if data.retraining else ():
        if candidate.trial.number == data.trial.number and candidate.mean is not None:
            seeds = len(candidate.scores)
            mean = f"mean of {plural(seeds, 'seed')}, retraining"
            rows.append((mean, candidate.steps, candidate.mean, scatter.interval_words([*candidate.scores.values()])))
            if seeds > 1 and candidate.steps == weights.result.steps and weights.seed in candidate.scores:
                name, interval = f"{name}, the best of {seeds}", BEST_OF_SEEDS
    rows.insert(0, (name, weights.result.steps, weights.result.score, interval))
    return rows


def _intervals(m: Measurement, latencies_s: Sequence[float]) -> dict[str, str]:
    """Return the 95 % intervals of the measured quantities, in words."""
    unusable, latency, speed = no_interval(m), order_statistic_interval(latencies_s), throughput_interval(m)
    late = f"{1e3 * latency[0]:.3g} to {1e3 * latency[1]:.3g}" if latency else "unknown"
    return {
        "ratio": fixed_interval(m.ratio_low, m.ratio_high, 3),
        "throughput": unusable if timing_doubt(m) or not speed else fixed_interval(*speed, 1),
        "latency": unusable if timing_doubt(m) else late,
    }


def _teacher_license(name: str) -> str:
    from timm.models import get_pretrained_cfg, is_model

    from nas.teachers import TEACHERS

    if name in TEACHERS:
        return TEACHERS[name].license or UNKNOWN_LICENSE
    network = name.partition("@")[0]
    config = get_pretrained_cfg(network) if is_model(network.partition(".")[0]) else None
    return code(config.license) if config is not None and config.license else UNKNOWN_LICENSE
