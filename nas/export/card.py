"""Write the model card in Markdown: use, score, speed and size with their settings, origin, license.

Names of teachers and data sets and the command are the searcher's input. All are shown as code, so that they can be
neither markup nor HTML.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.analysis.evidence import StudyEvidence
from nas.analysis.noise import SeedScatter, assumed_scatter
from nas.analysis.recommendation import place_words
from nas.analysis.retraining import RetrainingSummary
from nas.analysis.run_files import TrainedWeights
from nas.numbers import fixed, fixed_interval, plural
from nas.redaction import card_command, card_name
from nas.study.config import compares_unit_vectors
from nas.study.objectives import SCORE_LABELS
from nas.study.records import Measurement, StudyInfo, StudyRecord, TrialRecord
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
DIRECTIONS_ONLY = (
    "The loss of the summaries counts directions only: their explained variance is that of vectors of length 1, and "
    "the lengths of the summaries that heads predict are not trained."
)
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
    trial, usage = data.trial, report.usage.replace("PX", str(shapes.image_px)).replace("FOLDER", _quoted(folder))
    parts = [
        f"---\nlibrary_name: {LIBRARIES[kind]}\npipeline_tag: image-feature-extraction\ntags: [backbone-nas]\n"
        "license: other\nlicense_name: see-the-section-license\nlicense_link: README.md\n---",
        f"# {code(trial.baseline or trial.arch_id)}",
        f"A vision backbone, distilled by backbone-nas from {_names(data.study.info.teachers)}: "
        f"{outline(network_spec(trial.spec))}. Trial {trial.number} of the study {code(data.study.info.name)}; "
        f"the study's report shows it under {code(f'report.html#{trial.arch_id}')}.{_place(data)}",
        "## Use",
        f"```python\n{usage}\n```",
        _input(trained_px, shapes.image_px, kind),
        f"Outputs: {shapes.line}.",
        "\n".join(f"- {code(line)}" for line in report.lines),
        "## Score",
        _score(data),
        "## Speed and size",
        _speed(data),
        "## Origin",
        _origin(data, heads),
        "## License",
        _license(data),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _place(data: CardData) -> str:
    """Say whether the study recommends the model, and from what evidence; "" of another model."""
    words = place_words(data.evidence, data.trial.number)
    return f" In this study: {code(words)}." if words else ""


def code(text: str) -> str:
    """Return any text as code on one line of Markdown, also in a table."""
    plain = " ".join(text.replace("`", "'").replace("|", "/").split())
    return f"`{plain}`"


def _quoted(text: str) -> str:
    """Return any text, escaped for double quotes in Python."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _names(teachers: Sequence[str] | dict[str, str]) -> str:
    return ", ".join(code(name) for name in teachers)


def _input(trained_px: int, image_px: int, kind: str) -> str:
    scaled = "Values are normalized: (x - 0.5) / 0.25 for x in [0, 1]"
    if kind == "hf":
        scaled = "The model takes values in [0, 1] and normalizes them itself"
    return (
        f"Input: RGB, (B, 3, H, W). {scaled}. Distilled on the central square of each image, resized bilinearly with "
        f"antialiasing to {trained_px} x {trained_px} px; **features at other sizes are untested**. "
        f"preprocessor_config.json has these settings{'' if trained_px == image_px else f' for {image_px} px'}."
    )


def _score(data: CardData) -> str:
    """Return the explained variance of the exported weights and of other trainings, by teacher and head."""
    config, metrics = data.study.info.config, data.weights.result.metrics
    found = data.retraining.scatter if data.retraining else assumed_scatter(data.study.info)
    scatter = found.of_kind(data.trial.baseline)
    score = SCORE_LABELS[config["distill"].get("score", "spatial")]
    definition = (
        f"The score is the {score} on held-out images, mean over teachers. Its standard deviation between seeds is "
        f"{scatter.words}."
    )
    probes = ", ".join(f"{code(name)} {fixed(value, 4)}" for name, value in metrics.items())
    further = f"Probes on held-out images: {probes}." if probes else ""
    return "\n\n".join(part for part in (definition, _trainings(data, scatter), _by_teacher(data), further) if part)


def _trainings(data: CardData, scatter: SeedScatter) -> str:
    """Return a table of the exported weights and of the mean over seeds.

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
    lines = ["| weights | steps | score | 95 % interval over seeds |", "|---|---:|---:|---|"]
    lines += [f"| {each} | {steps} | {fixed(score, 4)} | {ends} |" for each, steps, score, ends in rows]
    return "\n".join(lines)


def _by_teacher(data: CardData) -> str:
    lines = ["| teacher | head | explained variance |", "|---|---|---:|"]
    for teacher, heads in data.weights.result.teachers.items():
        lines += [f"| {code(teacher)} | {code(head)} | {fixed(value, 4)} |" for head, value in heads.items()]
    table = "\n".join(lines)
    return f"{table}\n\n{DIRECTIONS_ONLY}" if compares_unit_vectors(data.study.info.config) else table


def _speed(data: CardData) -> str:
    trial, rows = data.trial, ["| | value | 95 % interval |", "|---|---:|---|"]
    text = "Not measured."
    if (m := trial.measurement) is not None:
        text = (
            f"{_when(data)} on {code(m.device)}: {code(m.arm)}, batch {m.batch}, {m.resolution} px; "
            f"verdict {code(m.verdict)}. {_trust(m)}"
        )
        if " but for " in m.arm:
            text += " A BatchNorm can only be folded into a convolution right before it; the others stay."
        rows += _measured(m, data.latencies_s)
    for name, value in (("parameters", trial.params), ("multiply-accumulates per image", trial.macs)):
        rows += [f"| {name} | {value:,} | exact |"] if value is not None else []
    return text + "\n\n" + "\n".join(rows)


def _when(data: CardData) -> str:
    """Say who timed the model: the search, or which remeasurement."""
    name = data.evidence.remeasured.get(data.trial.number)
    return "Measured by the search" if name is None else f"Measured again (remeasurement {code(name)})"


def _trust(m: Measurement) -> str:
    if doubt := timing_doubt(m):
        remedy = "`backbone-nas remeasure` on an idle machine gives one"
        return f"No ratio to {code(m.reference)} is given ({doubt}): {remedy}."
    return "The ratio is from timings interleaved with the reference's on this machine."


def _measured(m: Measurement, latencies_s: Sequence[float]) -> list[str]:
    interval, doubt, ends = order_statistic_interval(latencies_s), timing_doubt(m), throughput_interval(m)
    late = f"{1e3 * interval[0]:.3g} to {1e3 * interval[1]:.3g}" if interval else "unknown"
    spread = fixed_interval(*ends, 1) if ends else no_interval(m)
    batch, single = f"batch {m.batch}, {m.resolution} px", f"batch 1, {m.resolution} px"
    rows = [
        f"| throughput, images/s, {batch} | {fixed(m.throughput_img_s, 1)} | {no_interval(m) if doubt else spread} |",
        f"| latency, ms, {single} | {m.latency_ms:.3g} | {no_interval(m) if doubt else late} |",
    ]
    if not doubt:
        name = f"throughput relative to {code(m.reference)}, {batch}"
        rows.insert(0, f"| {name} | {fixed(m.ratio, 3)} | {fixed_interval(m.ratio_low, m.ratio_high, 3)} |")
    if m.peak_memory_mib is not None:
        rows.append(f"| peak memory, MiB, {batch} | {fixed(m.peak_memory_mib, 1)} | |")
    return rows


def _origin(data: CardData, heads: Sequence[str]) -> str:
    info, weights = data.study.info, data.weights
    versions = ", ".join(f"{name} {version}" for name, version in data.versions.items())
    lines = [
        f"weights: averaged (EMA), {weights.origin}, {weights.result.steps} steps, seed {weights.seed}",
        *(f"teacher {code(name)}: {code(_description(data, name))}" for name in info.teachers),
        f"teachers' heads in this folder: {_names(heads) + '; a cell of their maps covers 16 px' if heads else 'none'}",
        f"data: {code(card_name(_images(info)))}, fingerprint {code(info.data.get('fingerprint', 'unknown'))}"
        + (f"; {BUILTIN_DATA}" if _images(info) == "builtin" else ""),
        f"search: {code(card_command(info.command))}, created {code(info.created)}",
        f"export: {code(card_command(data.command))}",
        f"versions: {code(versions)}",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _images(info: StudyInfo) -> str:
    return str(info.data.get("name", "unknown"))


def _description(data: CardData, teacher: str) -> str:
    facts = data.study.info.teacher_facts.get(teacher)
    return f"{facts.description if facts else 'not described'}; fingerprint {data.study.info.teachers[teacher]}"


def _license(data: CardData) -> str:
    """Return the known facts about licenses."""
    lines = [f"- teacher {code(name)}: {_teacher_license(name)}" for name in data.study.info.teachers]
    known = BUILTIN_DATA if _images(data.study.info) == "builtin" else "their license is not known to this project"
    text = (
        "The code of backbone-nas is Apache-2.0. The weights were distilled from these teachers and on these images; "
        "the list is no legal advice. This card states no license of the weights: whoever publishes them decides on it "
        "and writes it into `license:` at the top of this file."
    )
    return "\n".join([text, "", *lines, f"- images {code(card_name(_images(data.study.info)))}: {known}"])


def _teacher_license(name: str) -> str:
    from timm.models import get_pretrained_cfg, is_model

    from nas.teachers import TEACHERS

    if name in TEACHERS:
        return TEACHERS[name].license or UNKNOWN_LICENSE
    network = name.partition("@")[0]
    config = get_pretrained_cfg(network) if is_model(network.partition(".")[0]) else None
    return code(config.license) if config is not None and config.license else UNKNOWN_LICENSE
