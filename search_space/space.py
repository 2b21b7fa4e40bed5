"""Search spaces: sample, vary, count, and encode architectures as flat parameters."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import chain
from typing import Any

from search_space.arch import STAGES, STEM_STRIDES, ArchSpec
from search_space.checks import SpecError, within_choices
from search_space.genes import LAST_STRIDE, Choice, Gene, Layout, StageChoices, count, layout_genes, stage_genes
from search_space.stage import MR_RATIOS, UNGROUPED_PRE_CONVS, StageSpec
from search_space.timm_spec import NetworkSpec
from search_space.windows import eradio_window, fitted, is_cut_into_windows

_stage = lru_cache(maxsize=20_000, typed=True)(StageSpec)  # a search repeats the same stages many times


@dataclass(frozen=True)
class Space:
    """A set of architectures; every combination of choices is a valid spec, which the constructor checks.

    The stages of the space have the strides s, 2 s, 4 s and so on, where s is the smallest stride of its stems. An
    architecture has those from its stem's stride to its last one, and counts its own stages from 1.

    Attributes:
        name: of the space.
        stages: the choices of each stage.
        layouts: the choices of stem and neck, one for each stride of stems.
        image_px: side of the images that the space is designed for.
        reference: preset that the throughputs of its searches are relative to by default.
        baselines: presets and networks of timm that its searches train and measure for comparison by default.
    """

    name: str
    stages: tuple[StageChoices, ...]
    layouts: tuple[Layout, ...]
    image_px: int = 224
    reference: str = "eradio_xt"
    baselines: tuple[str, ...] = ("eradio_xt", "eradio_t", "eradio_s")

    def __post_init__(self) -> None:
        for stem in self._layouts:
            within_choices("stems", stem, STEM_STRIDES)
        for number, layout in enumerate(self.layouts, start=1):
            self._check_layout(layout, number)
        for gene in self.genes:
            if not gene.choices or len(set(gene.choices)) != len(gene.choices):
                raise SpecError(f"{gene.name}: {gene.choices!r}; need distinct choices, at least one")
        for number, stage in enumerate(self.stages, start=1):
            for pre_conv in stage.pre_convs:
                within_choices(f"stage {number}: pre_convs", pre_conv, UNGROUPED_PRE_CONVS)
            wrong = [(w, h) for w in stage.widths for h in stage.heads if w % h]
            if wrong:
                raise SpecError(f"stage {number}: heads {wrong[0][1]} does not divide width {wrong[0][0]}")
            groups = [g for g in stage.group_widths if g is not None and "bottleneck" in stage.blocks]
            hidden = [int(w * e) for w in stage.widths for e in stage.conv_expansions]
            for g, h in ((g, h) for g in groups for h in hidden if h % g or h == g):
                raise SpecError(f"stage {number}: group_width {g} makes no groups of hidden width {h}")

    def _check_layout(self, layout: Layout, number: int) -> None:
        ends, last = self._ends(layout), max(self._ends(layout))
        one_stride = all(STEM_STRIDES[stem] == layout.stride for stem in layout.stems)
        largest = min(self.strides[-1], layout.stride * 2 ** (STAGES - 1))
        if not one_stride or min(ends) < layout.stride or last > largest:
            raise SpecError(f"stems: {', '.join(layout.stems)}; need one stride, and last_strides from it to {largest}")
        for stride in ends:
            within_choices(f"layout {number}: last_strides", stride, [s for s in self.strides if s >= layout.stride])
        stages = {f"stage{i}": stride for i, stride in enumerate(self.strides, start=1)}
        for neck in layout.necks:
            if neck != "none" and not layout.stride <= stages.get(neck, 0) < last:
                raise SpecError(f"necks: {neck}; need a stage at stride {layout.stride} or more, and below {last}")

    def check_choices(self) -> None:
        """Build an architecture with each choice of each gene; SpecError for the first that is none.

        Its stages have their smallest widths, which limit key widths, expansions and squeeze-excitation. The
        constructor checks the other choices that depend on each other: all pairs of them.
        """
        first: dict[str, Choice] = {gene.name: gene.choices[0] for gene in self.genes}
        first |= {f"stage{number}.width": min(stage.widths) for number, stage in enumerate(self.stages, start=1)}
        seen: set[Gene] = set()
        for (layout, end), present in self._present_genes.items():
            root: dict[str, Choice] = {"stem": layout.stems[0], f"{self._prefix(layout)}{LAST_STRIDE}": end}
            for gene in present:
                if gene not in seen:
                    parents = ((gene.parent, gene.when), (gene.ancestor, gene.ancestor_when))
                    allowing = {name: min(when, key=str) for name, when in parents if name is not None}
                    for choice in gene.choices:
                        self.decode(first | root | allowing | {gene.name: choice})
            seen.update(present)

    def at(self, image_px: int) -> Space:
        """Return the space for square images of this side: its windows tile their maps, see `search_space.windows`."""
        return _space_at(self, image_px)

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        """All parameters, in a fixed order."""
        stages = (gene for index, stage in enumerate(self.stages) for gene in stage_genes(stage, index))
        every = (gene for present in self._present_genes.values() for gene in present)
        return tuple(dict.fromkeys((*stages, *every)))

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Stride of each stage of the space."""
        first = min(layout.stride for layout in self.layouts)
        return tuple(first * 2**i for i in range(len(self.stages)))

    def choices(self) -> dict[str, tuple[Choice, ...]]:
        """Return the categorical choices by parameter name; every spec has the same parameters."""
        return {gene.name: gene.choices for gene in self.genes}

    def count(self) -> int:
        """Return the exact number of distinct specs."""
        total = 0
        for (layout, _), present in self._present_genes.items():
            stem = Gene("stem", None, "stem", layout.stems)
            total += count([stem, *(gene for gene in present if gene.field not in ("stem", LAST_STRIDE))])
        return total

    def active(self, params: Mapping[str, Choice]) -> tuple[Gene, ...]:
        """Return the genes that have an effect on the architecture of `params`, parents before their children."""
        return tuple(gene for gene in self._present(params) if gene.active(params))

    def decode(self, params: Mapping[str, Choice]) -> ArchSpec:
        """Return the spec of `params`. Raises SpecError for a missing parameter or a value outside the choices."""
        for gene in self.genes:
            if gene.name not in params:
                raise SpecError(f"{gene.name}: parameter is missing")
            within_choices(gene.name, params[gene.name], gene.choices)
        spec_fields: dict[str, Any] = {}
        stage_fields: dict[int, dict[str, Any]] = {}
        for gene in self.active(params):
            if gene.stage_index is not None:
                stage_fields.setdefault(gene.stage_index, {})[gene.field] = params[gene.name]
            elif gene.field != LAST_STRIDE:
                spec_fields[gene.field] = params[gene.name]
        spec_fields["neck"] = _shifted(spec_fields.get("neck", "none"), -min(stage_fields))
        stages = []
        for index, fields in stage_fields.items():
            try:
                stages.append(_stage(**fields))
            except SpecError as error:
                raise SpecError(f"stage {index + 1}: {error}") from None
        return ArchSpec(stages=tuple(stages), **spec_fields)

    def encode(self, spec: ArchSpec) -> dict[str, Choice]:
        """Return the parameters of a spec, so that ``decode(encode(spec)) == spec``.

        Inactive parameters get their first choice.

        Raises:
            SpecError: names the first parameter whose value is none of the choices.
        """
        params: dict[str, Choice] = {gene.name: gene.choices[0] for gene in self.genes}
        within_choices("stem", spec.stem, self._layouts)
        layout = self._layouts[spec.stem]
        within_choices(f"{self._prefix(layout)}{LAST_STRIDE}", spec.strides[-1], self._ends(layout))
        skipped = self.strides.index(layout.stride)
        values = {**vars(spec), LAST_STRIDE: spec.strides[-1], "neck": _shifted(spec.neck, skipped)}
        params |= {"stem": spec.stem, f"{self._prefix(layout)}{LAST_STRIDE}": spec.strides[-1]}
        present = self._present(params)
        if not any(gene.field == "neck" for gene in present):
            within_choices("neck", spec.neck, ("none",))
        for gene in present:
            if gene.active(params):
                index = gene.stage_index
                value = values[gene.field] if index is None else getattr(spec.stages[index - skipped], gene.field)
                within_choices(gene.name, value, gene.choices)
                params[gene.name] = value
        return {gene.name: params[gene.name] for gene in self.genes}

    def parse(self, plain: Mapping[str, Any]) -> ArchSpec:
        """Build a spec from the data of `ArchSpec.to_dict`. Raises SpecError."""
        return ArchSpec.from_dict(plain)

    def contains(self, spec: NetworkSpec) -> bool:
        """Tell whether `spec` is in the space."""
        try:
            return isinstance(spec, ArchSpec) and self.decode(self.encode(spec)) == spec
        except SpecError:
            return False

    def sample(self, rng: random.Random) -> ArchSpec:
        """Draw a spec; every parameter is uniform and independent."""
        return self.decode(self._draw(rng))

    def mutate(self, spec: ArchSpec, rng: random.Random) -> ArchSpec:
        """Return a spec that differs from `spec` in one or two active parameters.

        A new block keeps the parameters that it shares with the old one; the others are drawn.

        Raises:
            SpecError: `spec` lies outside the space, or the space has no other spec.
        """
        params = self.encode(spec)
        variable = [gene for gene in self.active(params) if len(gene.choices) > 1]
        if not variable:
            raise SpecError(f"space {self.name}: nothing can vary")
        fresh, active = self._draw(rng), {gene.name for gene in self.active(params)}
        mutant = {gene.name: (params if gene.name in active else fresh)[gene.name] for gene in self.genes}
        for gene in rng.sample(variable, min(rng.choice((1, 2)), len(variable))):
            mutant[gene.name] = rng.choice([value for value in gene.choices if value != params[gene.name]])
        return self.decode(mutant)

    def crossover(self, a: ArchSpec, b: ArchSpec, rng: random.Random) -> ArchSpec:
        """Return a child with each stage from one parent that has it, and each other parameter from one."""
        parents = [(params, {gene.name for gene in self.active(params)}) for params in map(self.encode, (a, b))]
        stage_donors = [rng.choice((0, 1)) for _ in self.stages]
        # With the stem of one parent and the inactive stem width of the other, a child would get a value of neither.
        root_donors = {gene.name: rng.choice((0, 1)) for gene in self.genes if gene.stage_index is None}
        child = {}
        for gene in self.genes:
            index = gene.stage_index
            donor = root_donors[gene.parent or gene.name] if index is None else stage_donors[index]
            if gene.name not in parents[donor][1] and gene.name in parents[1 - donor][1]:
                donor = 1 - donor
            child[gene.name] = parents[donor][0][gene.name]
        return self.decode(child)

    @cached_property
    def _layouts(self) -> dict[str, Layout]:
        """The layout of each stem."""
        return {stem: layout for layout in self.layouts for stem in layout.stems}

    @cached_property
    def _present_genes(self) -> dict[tuple[Layout, int], tuple[Gene, ...]]:
        """The genes of an architecture by its layout and last stride, whatever its blocks are."""
        stages = [stage_genes(stage, index) for index, stage in enumerate(self.stages)]
        stem = Gene("stem", None, "stem", tuple(stem for layout in self.layouts for stem in layout.stems))
        present = {}
        for layout in self.layouts:
            first = self.strides.index(layout.stride)
            for end in self._ends(layout):
                number = self.strides.index(end) + 1
                own = layout_genes(layout, self._prefix(layout), number, lone=end == layout.stride)
                present[layout, end] = (*chain(*stages[first:number]), stem, *own)
        return present

    def _present(self, params: Mapping[str, Choice]) -> tuple[Gene, ...]:
        layout = self._layouts[str(params["stem"])]
        end = params.get(f"{self._prefix(layout)}{LAST_STRIDE}", self._ends(layout)[-1])
        return self._present_genes[layout, int(end or 0)]

    def _prefix(self, layout: Layout) -> str:
        """Return what comes before the names of a layout's genes; nothing for the first one."""
        return "" if layout is self.layouts[0] else f"stride{layout.stride}."

    def _ends(self, layout: Layout) -> tuple[int, ...]:
        """Return the strides that the last stage may have."""
        return layout.last_strides or self.strides[-1:]

    def _draw(self, rng: random.Random) -> dict[str, Choice]:
        return {gene.name: rng.choice(gene.choices) for gene in self.genes}


def _shifted(neck: str, by: int) -> str:
    """Return a neck with its stage's number increased; "none" stays."""
    return neck if neck == "none" else f"stage{int(neck.removeprefix('stage')) + by}"


@lru_cache(maxsize=64)
def _space_at(space: Space, image_px: int) -> Space:
    """Return `Space.at`; one object for each space and size, as its genes take long to make."""
    base = eradio_window(space.image_px, space.image_px)
    fit = partial(fitted, base=base, height_px=image_px, width_px=image_px)
    stages = tuple(_stage_at(stage, stride, fit) for stride, stage in zip(space.strides, space.stages, strict=True))
    return space if stages == space.stages else replace(space, stages=stages, image_px=image_px)


def _stage_at(stage: StageChoices, stride: int, fit: Callable[[int, int], int]) -> StageChoices:
    """Return a stage's choices with windows that `fit` returns for a window and the side of a token in pixels."""
    cut = {block for block in stage.blocks if is_cut_into_windows(block)}
    windows, mr_windows = stage.windows, stage.mr_windows
    if cut - {"mr_window"}:
        windows = tuple(dict.fromkeys(fit(window, stride) for window in windows))
    if "mr_window" in cut:
        mr_windows = tuple(dict.fromkeys(fit(window, stride * max(MR_RATIOS)) for window in mr_windows))
    return replace(stage, windows=windows, mr_windows=mr_windows)
