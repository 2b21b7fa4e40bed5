"""Genes: what may vary in a space, as flat categorical parameters that any sampler understands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Choice = str | int | float


@dataclass(frozen=True)
class Gene:
    """One categorical parameter.

    place: stage index 0..3, or None for the whole net. field: the spec field that it sets. It is read only where the
    gene called `parent` has a value in `when`; genes that share a place and a field have disjoint `when`.
    """

    name: str
    place: int | None
    field: str
    choices: tuple[Choice, ...]
    parent: str | None = None
    when: frozenset[Choice] = frozenset()

    def active(self, values: Mapping[str, Choice]) -> bool:
        """Whether the network that `values` describe reads this gene."""
        return self.parent is None or values[self.parent] in self.when


@dataclass(frozen=True)
class StageChoices:
    """What may vary in one stage. Options that no block of the stage reads are ignored.

    conv_expansions: for c2f and basic. mlp_expansions: for all other blocks. mr_windows: of mr_window, whose map must
    be a multiple of twice its window or is resized; windows: of window. cpb_hidden is no choice: it hardly costs.
    """

    blocks: tuple[str, ...]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    conv_expansions: tuple[float, ...] = (0.5,)
    mlp_expansions: tuple[float, ...] = (4.0,)
    heads: tuple[int, ...] = (1,)
    pre_convs: tuple[str, ...] = ("none",)
    windows: tuple[int, ...] = (7,)
    mr_windows: tuple[int, ...] = (7,)
    subsamplings: tuple[str, ...] = ("conv",)
    cpb_hidden: int = 64


def stage_genes(stage: StageChoices, place: int) -> list[Gene]:
    """The genes of stage `place` (0-based; names count from 1)."""
    prefix = f"stage{place + 1}"
    table: list[tuple[str, str, tuple[Choice, ...], tuple[str, ...]]] = [
        ("conv_expansion", "expansion", stage.conv_expansions, ("c2f", "basic")),
        ("mlp_expansion", "expansion", stage.mlp_expansions, ("mbconv", "convnext", "pool", *ATTENTIONS)),
        ("heads", "heads", stage.heads, ATTENTIONS),
        ("pre_conv", "pre_conv", stage.pre_convs, ATTENTIONS),
        ("window", "window", stage.windows, ("window",)),
        ("mr_window", "window", stage.mr_windows, ("mr_window",)),
        ("subsampling", "subsampling", stage.subsamplings, ("mr_window",)),
        ("cpb_hidden", "cpb_hidden", (stage.cpb_hidden,), ("window", "mr_window")),
    ]
    genes = [Gene(f"{prefix}.{name}", place, name, choices) for name, choices in _shape(stage)]
    for name, field, choices, blocks in table:
        when = frozenset[Choice](set(blocks) & set(stage.blocks))
        if when:
            genes.append(Gene(f"{prefix}.{name}", place, field, choices, f"{prefix}.block", when))
    return genes


ATTENTIONS = ("window", "mr_window", "attention")


def _shape(stage: StageChoices) -> tuple[tuple[str, tuple[Choice, ...]], ...]:
    return ("block", stage.blocks), ("depth", stage.depths), ("width", stage.widths)


def count(genes: Iterable[Gene]) -> int:
    """Exact number of distinct settings of `genes`, inactive ones ignored. Parents have no parents of their own."""
    family = tuple(genes)
    total = 1
    for root in (g for g in family if g.parent is None):
        children = [g for g in family if g.parent == root.name]
        total *= sum(math.prod(len(c.choices) for c in children if value in c.when) for value in root.choices)
    return total
