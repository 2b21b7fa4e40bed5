"""Genes: what may vary in a space, as flat categorical parameters that any sampler understands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from search_space.arch import BLOCKS

Choice = str | int | float | None
NARROW = frozenset({"c2f", "basic", "bottleneck"})  # hidden at most as wide as the stage; all others widen, as MLPs do


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

    conv_expansions: of the blocks in `NARROW`. mlp_expansions: of all others. mr_windows: of mr_window, whose map must
    be a multiple of twice its window or is resized; windows: of all others. cpb_hidden and grid are no choices: they
    hardly cost. group_widths, squeezes: None is without; None alone is no choice and no gene.
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
    grid: int = 14
    group_widths: tuple[int | None, ...] = (None,)
    squeezes: tuple[float | None, ...] = (None,)


def stage_genes(stage: StageChoices, place: int) -> list[Gene]:
    """The genes of stage `place` (0-based; names count from 1)."""
    prefix = f"stage{place + 1}"
    table: list[tuple[str, str, tuple[Choice, ...], frozenset[str]]] = [
        ("conv_expansion", "expansion", stage.conv_expansions, NARROW),
        ("mlp_expansion", "expansion", stage.mlp_expansions, _readers("expansion") - NARROW),
        ("heads", "heads", stage.heads, _readers("heads")),
        ("pre_conv", "pre_conv", stage.pre_convs, _readers("pre_conv")),
        ("window", "window", stage.windows, _readers("window") - _readers("ratios")),
        ("mr_window", "window", stage.mr_windows, _readers("ratios")),
        ("subsampling", "subsampling", stage.subsamplings, _readers("subsampling")),
        ("cpb_hidden", "cpb_hidden", (stage.cpb_hidden,), _readers("cpb_hidden")),
        ("group_width", "group_width", stage.group_widths, _readers("group_width")),
        ("squeeze", "squeeze", stage.squeezes, _readers("squeeze")),
        ("grid", "grid", (stage.grid,), _readers("grid")),
    ]
    genes = [Gene(f"{prefix}.{name}", place, name, choices) for name, choices in _shape(stage)]
    for name, field, choices, blocks in table:
        when = frozenset[Choice](blocks & set(stage.blocks))
        if when and choices != (None,):
            genes.append(Gene(f"{prefix}.{name}", place, field, choices, f"{prefix}.block", when))
    return genes


def _readers(field: str) -> frozenset[str]:
    """The blocks that read `field`."""
    return frozenset(block for block, reads in BLOCKS.items() if field in reads)


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
