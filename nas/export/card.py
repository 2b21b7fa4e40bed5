"""Write the model card in Markdown: what a model is worth, how that was measured, what it was made from, how to use it.

Names of teachers and data sets and the command come from whoever ran the search: all are shown as code, so that they
can be neither markup nor HTML.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from nas.analysis.limit_chances import median_interval
from nas.analysis.noise import TYPICAL_SCATTER, SeedScatter
from nas.analysis.retraining import RetrainingSummary
from nas.analysis.run_files import TrainedWeights
from nas.study.records import Measurement, Study, TrialRecord
from nas.study.redaction import card_command, card_name
from search_space import ArchSpec
from search_space.outline import outline

if TYPE_CHECKING:
    from nas.export.source import FormatReport

REPORT = "report.html"
LIBRARIES = {"timm": "timm", "hf": "transformers", "onnx": "onnx", "torchscript": "pytorch"}
LICENCES = {"lite0": "Apache-2.0", "xfeat": "Apache-2.0", "hed": "MIT"}
UNKNOWN_LICENCE = "not known to this project: see where its weights come from"


@dataclass(frozen=True)
class CardData:
    """What a card tells beside the report of its format."""

    study: Study
    trial: TrialRecord
    retraining: RetrainingSummary | None
    weights: TrainedWeights  # that are exported
    continued_from: TrainedWeights | None  # where `weights` were trained longer
    latencies_s: Sequence[float]  # of the search's calls with one image
    command: str
    versions: dict[str, str]
    report: Path  # of the study


def model_card(
    data: CardData, kind: str, report: FormatReport, heads: Sequence[str], image_px: int, folder: Path
) -> str:
    """Return README.md of an export that will lie at `folder`."""
    trial = data.trial
    parts = [
        f"---\nlibrary_name: {LIBRARIES[kind]}\npipeline_tag: image-feature-extraction\ntags: [backbone-nas]\n---",
        f"# {code(trial.baseline or trial.arch_id)}",
        f"A vision backbone found by backbone-nas and distilled from {_names(data.study.info.teachers)}: "
        f"{outline(ArchSpec.from_dict(trial.spec))}. Trial {trial.number} of the study {code(data.study.info.name)}; "
        f"{_link(data, folder)}.",
        "## Use",
        f"```python\n{report.usage.replace('FOLDER', _quoted(folder.name))}\n```",
        _input(image_px, kind),
        "\n".join(f"- {code(line)}" for line in report.lines),
        "## Score",
        _score(data),
        "## Speed and size",
        _speed(data),
        "## Made from",
        _origin(data, heads),
        "## Licence",
        _licence(data),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def code(text: str) -> str:
    """Return any text as code on one line of Markdown, also in a table."""
    plain = " ".join(text.replace("`", "'").replace("|", "/").split())
    return f"`{plain}`"


def _quoted(text: str) -> str:
    """Return any text as it stands between double quotes in Python."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _names(teachers: Sequence[str] | dict[str, str]) -> str:
    return ", ".join(code(name) for name in teachers)


def _link(data: CardData, folder: Path) -> str:
    if not data.report.is_file():
        return f"the study's report shows it under {code(f'#{data.trial.arch_id}')}"
    where = os.path.relpath(data.report.resolve(), folder.resolve()).replace(os.sep, "/")
    return f"[its place in the study's report](<{quote(where)}#{data.trial.arch_id}>)"


def _input(image_px: int, kind: str) -> str:
    scaled = "Values are normalized: (x - 0.5) / 0.25 for x in [0, 1]"
    if kind == "hf":
        scaled = "The model takes values in [0, 1] and normalizes them itself"
    return (
        f"Input: RGB, (B, 3, H, W). {scaled}. Distilled on the central square of each image, resized bilinearly with "
        f"antialiasing to {image_px} x {image_px} px; what it is worth at other sizes was not measured. "
        "preprocessor_config.json says the same."
    )


def _score(data: CardData) -> str:
    """Tell the explained variance of the exported weights and of other trainings, by teacher and head."""
    scatter, metrics = data.retraining.scatter if data.retraining else TYPICAL_SCATTER, data.weights.result.metrics
    source = "measured in this study" if scatter.measured else "taken from another study"
    said = (
        "Score is the explained variance of the teachers' features on held-out images, mean over teachers. A seed "
        f"moves it by {scatter.sd:.4f} (standard deviation, {source})."
    )
    probes = ", ".join(f"{code(name)} {value:.4f}" for name, value in metrics.items())
    further = f"Further, by probes on held-out images: {probes}." if probes else ""
    return "\n\n".join(part for part in (said, _trainings(data, scatter), _by_teacher(data), further) if part)


def _trainings(data: CardData, scatter: SeedScatter) -> str:
    trained = [(f"exported weights: {data.weights.origin}", data.weights)]
    if data.continued_from is not None:
        trained.append((f"before: {data.continued_from.origin}", data.continued_from))
    rows = [(name, weights.result.steps, weights.result.score, 1) for name, weights in trained]
    for candidate in data.retraining.candidates if data.retraining else ():
        if candidate.trial.number == data.trial.number and candidate.mean is not None:
            seeds = len(candidate.scores)
            name = f"mean of {seeds} seed{'s' * (seeds > 1)}, nas.retrain"
            rows.append((name, candidate.steps, candidate.mean, seeds))
    lines = ["| weights | steps | score | 95 % interval over seeds |", "|---|---:|---:|---|"]
    for name, steps, score, seeds in rows:
        half = scatter.half_width(seeds)
        lines.append(f"| {name} | {steps} | {score:.4f} | {score - half:.4f} to {score + half:.4f} |")
    return "\n".join(lines)


def _by_teacher(data: CardData) -> str:
    lines = ["| teacher | head | explained variance |", "|---|---|---:|"]
    for teacher, heads in data.weights.result.teachers.items():
        lines += [f"| {code(teacher)} | {code(head)} | {value:.4f} |" for head, value in heads.items()]
    return "\n".join(lines)


def _speed(data: CardData) -> str:
    trial, rows = data.trial, ["| | value | 95 % interval |", "|---|---:|---|"]
    said = "Not measured."
    if (m := trial.measurement) is not None:
        said = (
            f"Measured by the search on {code(m.device)}: {code(m.arm)}, batch {m.batch}, {m.resolution} px; "
            f"verdict {code(m.verdict)}. The ratio is from timings in turns with the reference, on the same machine."
        )
        rows += _measured(m, data.latencies_s)
    for name, value in (("parameters", trial.params), ("multiply-accumulates an image", trial.macs)):
        rows += [f"| {name} | {value:,} | exact |"] if value is not None else []
    return said + "\n\n" + "\n".join(rows)


def _measured(m: Measurement, latencies_s: Sequence[float]) -> list[str]:
    interval = median_interval(latencies_s)
    shown = f"{1e3 * interval[0]:.3g} to {1e3 * interval[1]:.3g}" if interval else "not known"
    rows = [
        f"| throughput / {code(m.reference)}'s | {m.ratio:.3f} | {m.ratio_low:.3f} to {m.ratio_high:.3f} |",
        f"| throughput, images/s | {m.throughput_img_s:.1f} | {m.throughput_low_img_s:.1f} to "
        f"{m.throughput_high_img_s:.1f} |",
        f"| latency of one image, ms | {m.latency_ms:.3g} | {shown} |",
    ]
    return rows + ([f"| peak memory, MiB | {m.peak_memory_mib:.1f} | |"] if m.peak_memory_mib is not None else [])


def _origin(data: CardData, heads: Sequence[str]) -> str:
    info, weights = data.study.info, data.weights
    versions = ", ".join(f"{name} {version}" for name, version in data.versions.items())
    lines = [
        f"weights: averaged (EMA), {weights.origin}, {weights.result.steps} steps, seed {weights.seed}",
        *(f"teacher {code(name)}: {code(_what(data, name))}" for name in info.teachers),
        f"heads of teachers in this folder: {_names(heads) + '; a cell of their maps is 16 px' if heads else 'none'}",
        f"data: {code(card_name(info.data['name']))}, fingerprint {code(info.data['fingerprint'])}",
        f"search: {code(card_command(info.command))}, created {code(info.created)}",
        f"export: {code(card_command(data.command))}",
        f"versions: {code(versions)}",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _what(data: CardData, teacher: str) -> str:
    facts = data.study.info.teacher_facts.get(teacher)
    return f"{facts.description if facts else 'not described'}; fingerprint {data.study.info.teachers[teacher]}"


def _licence(data: CardData) -> str:
    """Tell what is known; whoever passes weights on has to know the rest."""
    lines = [f"- {code(name)}: {_teacher_licence(name)}" for name in data.study.info.teachers]
    said = (
        "The code is Apache-2.0. The weights were distilled from these teachers, on the data named above; what their "
        "licences ask of a student is for whoever passes it on to judge."
    )
    return said + "\n\n" + "\n".join(lines)


def _teacher_licence(name: str) -> str:
    if name in LICENCES:
        return LICENCES[name]
    from timm.models import get_pretrained_cfg, is_model

    network = name.partition("@")[0]
    known = get_pretrained_cfg(network) if is_model(network.partition(".")[0]) else None
    return code(known.license) if known is not None and known.license else UNKNOWN_LICENCE
