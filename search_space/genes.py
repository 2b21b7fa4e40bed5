"""Genes: the variable parts of a space, as flat categorical parameters that any sampler understands."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_space.arch import EXPANDING_DOWNSAMPLINGS, STEM_STRIDES
from search_space.checks import SpecError
from search_space.stage import BLOCK_FIELDS, DEFAULT_KERNELS, StageSpec, default_kernel

Choice = str | int | float | None
LAST_STRIDE = "last_stride"  # a gene's field that is no field of a spec
# Hidden width at most the stage's; in all other blocks it is larger, as in MLPs.
NARROW = frozenset({"c2f", "light_c2f", "basic", "bottleneck"})


@dataclass(frozen=True)
class Gene:
    """One categorical parameter.

    A gene with a parent is active only where the parent is active and has a value in `when`, and where the architecture
    has the gene's stage and layout (see `Space.active`). Genes that set the same field of the same stage have disjoint
    conditions.

    Attributes:
        name: the parameter's name, unique in its space.
        stage_index: index of the stage in its space; None for a parameter of the whole architecture.
        field: the spec's field that the gene sets.
        choices: allowed values.
        parent: name of another gene.
        when: values of the parent.
        ancestor: name of the parent's own parent, if it has one.
        ancestor_when: values of the ancestor for which the parent is active.
    """

    name: str
    stage_index: int | None
    field: str
    choices: tuple[Choice, ...]
    parent: str | None = None
    when: frozenset[Choice] = frozenset()
    ancestor: str | None = None
    ancestor_when: frozenset[Choice] = frozenset()

    def active(self, values: Mapping[str, Choice]) -> bool:
        """Tell whether the values of parent and ancestor allow the gene, given the `values` of all genes."""
        if self.parent is not None and values[self.parent] not in self.when:
            return False
        return self.ancestor is None or values[self.ancestor] in self.ancestor_when


@dataclass(frozen=True)
class StageChoices:
    """The choices of one stage. Options that no block of the stage reads are ignored.

    `cpb_hidden` and `grid` are single values, because they hardly change a model's cost. Choices with None are options
    that None leaves out; with None alone there is no gene.

    Attributes:
        blocks: keys of `BLOCK_FIELDS`.
        depths: numbers of blocks.
        widths: channels.
        conv_expansions: expansions of the blocks in `NARROW` only (hidden width up to the stage's).
        mlp_expansions: expansions of all other blocks: also of convolutional ones such as mbconv and convnext, and of
            new ones that are not added to `NARROW`.
        heads: numbers of attention heads; they divide all widths.
        pre_convs: 3x3 convolution before attention, one of `UNGROUPED_PRE_CONVS`.
        windows: windows of all blocks but mr_window and vit.
        mr_windows: windows of mr_window, which resizes its map to a multiple of twice the window.
        subsamplings: see `StageSpec.subsampling`.
        cpb_hidden: see `StageSpec.cpb_hidden`.
        grid: see `StageSpec.grid`.
        group_widths: see `StageSpec.group_width`.
        squeezes: see `StageSpec.squeeze`.
        key_widths: see `StageSpec.key_width`.
        kernels: sides of kernels; a block's default is None in its gene. Without any, all blocks have their default.
        vit_windows: windows of vit; None: all of its layers are global.
        global_everies: see `StageSpec.global_every`; at most the smallest depth.
        registers: see `StageSpec.registers`.
        positions: see `StageSpec.positions`.
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
    key_widths: tuple[int, ...] = (16,)
    kernels: tuple[int, ...] = ()
    vit_windows: tuple[int | None, ...] = (None,)
    global_everies: tuple[int | None, ...] = (None,)
    registers: tuple[int | None, ...] = (None,)
    positions: tuple[str | None, ...] = (None,)


@dataclass(frozen=True)
class Layout:
    """The choices of stem, number of stages, downsampling and neck, for stems of one stride.

    Attributes:
        stems: keys of `STEM_STRIDES`, all with the same stride.
        downsamplings: see `ArchSpec.downsampling`.
        stem_widths: widths of the "conv" stem.
        necks: "none" or "stageN", where N counts the stages of the space, not of the architecture.
        neck_dims: see `ArchSpec.neck_dim`.
        last_strides: strides of the last stage; none: that of the space's last stage.
        downsampling_expansions: see `ArchSpec.downsampling_expansion`.
    """

    stems: tuple[str, ...]
    downsamplings: tuple[str, ...]
    stem_widths: tuple[int, ...] = ()
    necks: tuple[str, ...] = ("none",)
    neck_dims: tuple[int, ...] = ()
    last_strides: tuple[int, ...] = ()
    downsampling_expansions: tuple[float, ...] = ()

    @property
    def stride(self) -> int:
        """Stride of the stems."""
        return STEM_STRIDES[self.stems[0]]


def layout_genes(layout: Layout, prefix: str, number: int, lone: bool) -> list[Gene]:
    """Return the genes of architectures of a layout, all but the stem.

    A neck fuses a stage with later ones, so that architectures that end earlier have fewer choices of it. One stage
    alone has no downsampling.

    Args:
        layout: the layout.
        prefix: what comes before the names.
        number: of the last stage, counted as in `Layout.necks`.
        lone: whether the architectures have one stage only.
    """
    genes = []
    if "conv" in layout.stems:
        genes.append(Gene(f"{prefix}stem_width", None, "stem_width", layout.stem_widths, "stem", frozenset({"conv"})))
    if len(layout.last_strides) > 1:
        genes.append(Gene(f"{prefix}last_stride", None, LAST_STRIDE, layout.last_strides))
    down, expanding = f"{prefix}downsampling", frozenset[Choice](layout.downsamplings) & set(EXPANDING_DOWNSAMPLINGS)
    if not lone:
        genes.append(Gene(down, None, "downsampling", layout.downsamplings))
    if expanding and not lone:
        expansions = layout.downsampling_expansions
        genes.append(Gene(f"{down}_expansion", None, "downsampling_expansion", expansions, down, expanding))
    necks = tuple(neck for neck in layout.necks if neck == "none" or int(neck.removeprefix("stage")) < number)
    neck = f"{prefix}neck" if necks == layout.necks else f"{prefix}neck_until_stage{number}"
    fused = frozenset[Choice](necks) - {"none"}
    if necks == layout.necks or fused:
        genes.append(Gene(neck, None, "neck", necks))
    if fused:
        genes.append(Gene(neck.replace("neck", "neck_dim"), None, "neck_dim", layout.neck_dims, neck, fused))
    return genes


def stage_genes(stage: StageChoices, stage_index: int) -> list[Gene]:
    """Return the genes of the stage at index `stage_index`; in names, stages count from 1."""
    prefix = f"stage{stage_index + 1}"
    several_positions = stage.positions != (None,)  # vit then has a grid only with some of them
    table: list[tuple[str, str, tuple[Choice, ...], frozenset[str]]] = [
        ("conv_expansion", "expansion", stage.conv_expansions, NARROW),
        ("mlp_expansion", "expansion", stage.mlp_expansions, _readers("expansion") - NARROW),
        ("heads", "heads", stage.heads, _readers("heads")),
        ("pre_conv", "pre_conv", stage.pre_convs, _readers("pre_conv")),
        ("window", "window", stage.windows, _readers("window") - {"mr_window", "vit"}),
        ("mr_window", "window", stage.mr_windows, frozenset({"mr_window"})),
        ("subsampling", "subsampling", stage.subsamplings, _readers("subsampling")),
        ("cpb_hidden", "cpb_hidden", (stage.cpb_hidden,), _readers("cpb_hidden")),
        ("group_width", "group_width", stage.group_widths, _readers("group_width")),
        ("squeeze", "squeeze", stage.squeezes, _readers("squeeze")),
        ("grid", "grid", (stage.grid,), _readers("grid") - ({"vit"} if several_positions else set())),
        ("key_width", "key_width", stage.key_widths, _readers("key_width")),
        ("kernel", "kernel", _kernels(stage, "mbconv"), _readers("kernel") - set(DEFAULT_KERNELS)),
        *((f"{block}_kernel", "kernel", _kernels(stage, block), frozenset({block})) for block in DEFAULT_KERNELS),
        ("vit_window", "window", stage.vit_windows, frozenset({"vit"})),
        ("registers", "registers", stage.registers, _readers("registers")),
        ("positions", "positions", stage.positions, _readers("positions")),
    ]
    genes = [Gene(f"{prefix}.{name}", stage_index, name, choices) for name, choices in _shape(stage)]
    for name, field, choices, blocks in table:
        when = frozenset[Choice](blocks & set(stage.blocks))
        if when and choices != (None,):
            genes.append(Gene(f"{prefix}.{name}", stage_index, field, choices, f"{prefix}.block", when))
    return genes + _vit_options(stage, genes, prefix)


def _vit_options(stage: StageChoices, genes: Sequence[Gene], prefix: str) -> list[Gene]:
    """Return the genes of vit that depend on its windows and positions.

    Raises:
        SpecError: Not every combination of vit's choices is a stage.
    """
    if "vit" in stage.blocks:
        _check_vit(stage, prefix)
    windows, places = frozenset[Choice](stage.vit_windows) - {None}, frozenset[Choice]({None})
    table: tuple[tuple[str, str, tuple[Choice, ...], str, frozenset[Choice]], ...] = (
        ("global_every", "global_every", stage.global_everies, "vit_window", windows),
        ("vit_grid", "grid", (stage.grid,), "positions", places & set(stage.positions)),
    )
    parents = {gene.name: gene for gene in genes}
    found = []
    for name, field, choices, parent_name, when in table:
        parent = parents.get(f"{prefix}.{parent_name}")
        if parent is not None and when and choices != (None,):
            above = parent.parent, parent.when
            found.append(Gene(f"{prefix}.{name}", parent.stage_index, field, choices, parent.name, when, *above))
    return found


def _check_vit(stage: StageChoices, prefix: str) -> None:
    patterns = itertools.product(stage.vit_windows, stage.global_everies, stage.registers)
    names, fewest = ("window", "global_every", "registers"), min(stage.depths)
    tried: list[dict[str, Any]]
    tried = [{"width": stage.widths[0], "heads": stage.heads[0], **dict(zip(names, p, strict=True))} for p in patterns]
    shapes = itertools.product(stage.widths, stage.heads, stage.positions)
    tried += [{"width": width, "heads": heads, "positions": positions} for width, heads, positions in shapes]
    try:
        for fields in tried:
            StageSpec("vit", fewest, **fields, expansion=stage.mlp_expansions[0], grid=stage.grid)
    except SpecError as error:
        raise SpecError(f"{prefix}: {error}") from None


def _kernels(stage: StageChoices, block: str) -> tuple[Choice, ...]:
    """Return the choices of a block's kernel: None for its default, as in the spec."""
    return tuple(None if side == default_kernel(block) else side for side in stage.kernels) or (None,)


def _readers(field: str) -> frozenset[str]:
    """Return the blocks that read `field`."""
    return frozenset(block for block, reads in BLOCK_FIELDS.items() if field in reads)


def _shape(stage: StageChoices) -> tuple[tuple[str, tuple[Choice, ...]], ...]:
    return ("block", stage.blocks), ("depth", stage.depths), ("width", stage.widths)


def count(genes: Iterable[Gene]) -> int:
    """Return the exact number of distinct settings of `genes`, without inactive ones."""
    genes = tuple(genes)

    def settings(gene: Gene) -> int:
        children = [g for g in genes if g.parent == gene.name]
        return sum(math.prod(settings(c) for c in children if value in c.when) for value in gene.choices)

    return math.prod(settings(root) for root in genes if root.parent is None)
