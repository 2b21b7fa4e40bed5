"""What a search needs before it builds anything: a device, images, and limits that some architecture keeps.

A search refuses to start without them; a dry run shows each as a line.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from nas.measure.devices import cuda_is_available, without_kernels
from nas.measure.runtime_spec import Arm, check_runs_here
from nas.numbers import plural
from nas.study.config import SearchConfig
from nas.study.limits import LIMITS, Compliance, Limit, Totals
from nas.study.teacher_names import check_teacher_names
from nas.validation import ConfigError

SAMPLED = 200  # random architectures whose costs are counted
_FAR = 3.0  # a limit of less than a third of the space's least costs is refused without counting anything
# The least parameters, and MACs of an image for each of its pixels, of the smallest of 20,000 random architectures of a
# space. `python -m experiments.least_costs` prints them.
_LEAST = {"micro": (72_920, 429.7), "laptop": (33_224, 224.0), "full": (160_016, 800.0)}


def check_device(config: SearchConfig, source: str, remedy: str) -> None:
    """Raise ConfigError where a search asks for a GPU that this machine does not have; ArmError for its runtime.

    Args:
        config: Settings of the search.
        source: The option that names the device, or the file or study that does.
        remedy: What the user can do.
    """
    if config.device != "cuda":
        return
    if reason := without_kernels():
        raise ConfigError(f"{source}: {config.device!r}: {reason}")
    if not cuda_is_available():
        raise ConfigError(f"{source}: {config.device!r}: PyTorch sees no CUDA device here; {remedy}")
    arm = Arm.parse(config.runtime)
    check_runs_here(config.device, arm.runtime, arm.precision)


def check_sources(data: str, teachers: str, weights: Mapping[str, Path]) -> None:
    """Raise ValueError for images or teachers that are surely not there, before what takes seconds is imported.

    Args:
        data: The images, as `nas.data.open_images` takes them.
        teachers: A comma list of teachers or sets.
        weights: Files of teachers' weights, by teacher.
    """
    from nas.data import check_uri

    check_teacher_names(teachers, weights)
    check_uri(data)


def check_batch(config: SearchConfig, images: int) -> None:
    """Raise ConfigError where a training batch takes more images than there are.

    Args:
        config: Settings of the search.
        images: Images to train on, with their views.
    """
    recipe = config.distill
    if images >= recipe.largest_batch:
        return
    parts = recipe.accumulate * recipe.ranks
    smaller = images // parts * parts
    views = f", with {config.views} views of each," if config.views > 1 else ""
    advice = f", or give --batch-size {smaller}" if smaller >= 2 * parts and not recipe.groups else ""
    raise ConfigError(
        f"--data: {config.data}: found {plural(images, 'image')} to train on{views}; a training batch takes "
        f"{recipe.largest_batch:,}. Add images{advice}"
    )


def check_image_count(config: SearchConfig, train: int, val: int) -> str:
    """Return a warning about a data set that has fewer images than the settings ask for; "" where it has them.

    Args:
        config: Settings of the search.
        train: Images to train on, without their views.
        val: Held-out images.

    Raises:
        ConfigError: The images are fewer than a batch, than a validation needs, or than half of a number that was asked
            for; the defaults are no such number.
    """
    check_batch(config, train * config.views)
    if val < 2:
        raise ConfigError(f"--data: {config.data}: found {val} held-out images; a score needs 2 or more. Add images")
    found = {"train_images": train, "val_images": val}
    asked = {name: getattr(config, name) for name in found}
    words = {"train_images": "to train on", "val_images": "held out"}
    short = [name for name in found if found[name] < asked[name]]
    if not short:
        return ""
    line = f"{config.data}: only " + ", and ".join(
        f"{found[name]:,} of {plural(asked[name], 'image')} {words[name]}" for name in short
    )
    if any(2 * found[name] < asked[name] != getattr(SearchConfig(), name) for name in short):
        flags = f"--train-images {train} --val-images {val}"
        raise ConfigError(f"--data: {line}; check the path and the shards, or ask for what is there: {flags}")
    return line


def unseen_images(config: SearchConfig) -> str:
    """Return a warning about images that the teachers see and no candidate trains on; "" where there are none.

    Args:
        config: Settings of the search.
    """
    steps, batch = config.distill.rung_steps[-1], config.distill.largest_batch
    stored, seen = config.train_images * config.views, steps * batch
    if stored <= seen:
        return ""
    what = "images" if config.views == 1 else "views of images"
    return (
        f"a candidate sees at most {seen:,} of the {stored:,} {what} ({steps:,} steps of {batch} images), so the "
        f"teachers' work on the others is wasted; give --train-images {max(seen // config.views, batch)}, or more "
        "steps with --rung-steps"
    )


def check_limits(config: SearchConfig) -> str:
    """Return a line about how many random architectures keep the limits that are known without a measurement.

    Raises:
        ConfigError: None does; the message has the smallest values.
    """
    counted = {name: bound for name, bound in config.limits.items() if not LIMITS[name].measured}
    measured = [LIMITS[name].flag for name in config.limits if name not in counted]
    parts = [_kept(config, counted)] if counted else []
    if measured:
        parts.append(f"whether an architecture is within {' and '.join(measured)} is known once it is measured")
    return "; ".join(parts) or "none"


def too_few_within_limits(config: SearchConfig, found: int, drawn: int, needed: int, flag: str) -> ConfigError:
    """Return the error of a command that needs more architectures within the counted limits than it found.

    Args:
        config: Settings of the search.
        found: Architectures within the limits.
        drawn: Random architectures that were drawn.
        needed: Architectures that the command needs.
        flag: Option that sets `needed`.
    """
    counted = {name: bound for name, bound in config.limits.items() if not LIMITS[name].measured}
    return ConfigError(
        f"{_bounds(counted)}: only {found} of {drawn} random architectures of the space {config.space} are within"
        f" {'these limits' if len(counted) > 1 else 'this limit'}, and {needed} are needed ({flag}): relax"
        f" {'a limit' if len(counted) > 1 else 'it'}, or lower {flag}"
    )


def _bounds(limits: Mapping[str, float]) -> str:
    return " and ".join(f"{LIMITS[name].flag} {_number(bound)}" for name, bound in limits.items())


def _kept(config: SearchConfig, limits: Mapping[str, float]) -> str:
    bounds = _bounds(limits)
    least = [_least_costs(config)] if config.space in _LEAST and not config.choices else []
    if any(bound * _FAR < _smallest(LIMITS[name], least) for name, bound in limits.items() if least):
        raise ConfigError(
            f"{bounds}: far below what the architectures of the space {config.space} need. The smallest values known"
            f" are {_smallest_values(limits, least)}"
        )
    from nas.measure.counts.totals import totals  # imports torch: not for the refusal above

    rng, space = random.Random(f"limits/{config.seed}"), config.search_space
    costs = [totals(space.sample(rng), config.distill.img_size) for _ in range(SAMPLED)]
    kept = sum(all(_keeps(LIMITS[name], each, bound) for name, bound in limits.items()) for each in costs)
    if kept:
        return f"{kept} of {len(costs)} random architectures are within {bounds}"
    raise ConfigError(
        f"{bounds}: none of {len(costs)} random architectures of the space {config.space} is within "
        f"{'these limits together' if len(limits) > 1 else 'this limit'}. The smallest value found is "
        f"{_smallest_values(limits, costs)}"
    )


def _least_costs(config: SearchConfig) -> Totals:
    params, macs_per_pixel = _LEAST[config.space]
    return Totals(round(macs_per_pixel * config.distill.img_size**2), params)


def _smallest_values(limits: Mapping[str, float], costs: list[Totals]) -> str:
    return ", ".join(f"{_number(_smallest(LIMITS[name], costs))} for {LIMITS[name].flag}" for name in limits)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def _keeps(limit: Limit, costs: Totals, bound: float) -> bool:
    return limit.compliance(limit.value(costs), bound) is Compliance.KEPT


def _smallest(limit: Limit, costs: list[Totals]) -> float:
    return min(value for each in costs if (value := limit.value(each)) is not None)
