"""Search spaces: sample, vary, count, and encode architectures as flat parameters."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from search_space.arch import ArchSpec, StageSpec
from search_space.checks import SpecError, within_choices
from search_space.genes import Choice, Gene, StageChoices, count, stage_genes

_stage = lru_cache(maxsize=20_000, typed=True)(StageSpec)  # a search repeats the same stages many times


@dataclass(frozen=True)
class Space:
    """A set of architectures; every combination of choices is a valid spec, which the constructor checks."""

    name: str
    stages: tuple[StageChoices, ...]
    stems: tuple[str, ...]
    stem_widths: tuple[int, ...]
    downsamplings: tuple[str, ...]
    necks: tuple[str, ...]
    neck_dims: tuple[int, ...]

    def __post_init__(self) -> None:
        for gene in self.genes:
            if not gene.choices or len(set(gene.choices)) != len(gene.choices):
                raise SpecError(f"{gene.name}: {gene.choices!r}; need distinct choices, at least one")
        for number, stage in enumerate(self.stages, start=1):
            wrong = [(w, h) for w in stage.widths for h in stage.heads if w % h]
            if wrong:
                raise SpecError(f"stage {number}: heads {wrong[0][1]} does not divide width {wrong[0][0]}")
            groups = [g for g in stage.group_widths if g is not None and "bottleneck" in stage.blocks]
            hidden = [int(w * e) for w in stage.widths for e in stage.conv_expansions]
            for g, h in ((g, h) for g in groups for h in hidden if h % g or h == g):
                raise SpecError(f"stage {number}: group_width {g} makes no groups of hidden width {h}")

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        """All parameters, in a fixed order."""
        genes = [gene for index, stage in enumerate(self.stages) for gene in stage_genes(stage, index)]
        genes += [
            Gene("stem", None, "stem", self.stems),
            Gene("stem_width", None, "stem_width", self.stem_widths, "stem", frozenset({"conv"})),
            Gene("downsampling", None, "downsampling", self.downsamplings),
            Gene("neck", None, "neck", self.necks),
            Gene("neck_dim", None, "neck_dim", self.neck_dims, "neck", frozenset(self.necks) - {"none"}),
        ]
        return tuple(genes)

    def choices(self) -> dict[str, tuple[Choice, ...]]:
        """Return the categorical choices by parameter name; every spec has the same parameters."""
        return {gene.name: gene.choices for gene in self.genes}

    def count(self) -> int:
        """Return the exact number of distinct specs."""
        return count(self.genes)

    def decode(self, params: Mapping[str, Choice]) -> ArchSpec:
        """Return the spec of `params`. Raises SpecError for a missing parameter or a value outside the choices."""
        spec_fields: dict[str, Any] = {}
        stage_fields: list[dict[str, Any]] = [{} for _ in self.stages]
        for gene in self.genes:
            if gene.name not in params:
                raise SpecError(f"{gene.name}: parameter is missing")
            within_choices(gene.name, params[gene.name], gene.choices)
        for gene in self.genes:
            if gene.active(params):
                target = spec_fields if gene.stage_index is None else stage_fields[gene.stage_index]
                target[gene.field] = params[gene.name]
        return ArchSpec(stages=tuple(_stage(**fields) for fields in stage_fields), **spec_fields)

    def encode(self, spec: ArchSpec) -> dict[str, Choice]:
        """Return the parameters of a spec, so that ``decode(encode(spec)) == spec``.

        Inactive parameters get their first choice.

        Raises:
            SpecError: names the first parameter whose value is none of the choices.
        """
        params: dict[str, Choice] = {}
        for gene in self.genes:
            value = getattr(spec if gene.stage_index is None else spec.stages[gene.stage_index], gene.field)
            if gene.active(params):
                within_choices(gene.name, value, gene.choices)
                params[gene.name] = value
            else:
                params[gene.name] = gene.choices[0]
        return params

    def parse(self, plain: Mapping[str, Any]) -> ArchSpec:
        """Build a spec from the data of `ArchSpec.to_dict`. Raises SpecError."""
        return ArchSpec.from_dict(plain)

    def contains(self, spec: ArchSpec) -> bool:
        """Tell whether `spec` is in the space."""
        try:
            return self.decode(self.encode(spec)) == spec
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
        variable = [gene for gene in self.genes if gene.active(params) and len(gene.choices) > 1]
        if not variable:
            raise SpecError(f"space {self.name}: nothing can vary")
        fresh = self._draw(rng)
        mutant = {gene.name: (params if gene.active(params) else fresh)[gene.name] for gene in self.genes}
        for gene in rng.sample(variable, min(rng.choice((1, 2)), len(variable))):
            mutant[gene.name] = rng.choice([value for value in gene.choices if value != params[gene.name]])
        return self.decode(mutant)

    def crossover(self, a: ArchSpec, b: ArchSpec, rng: random.Random) -> ArchSpec:
        """Return a child with each stage from one parent, and each other parameter from one."""
        parents = self.encode(a), self.encode(b)
        donor = [rng.choice(parents) for _ in self.stages]
        # With the stem of one parent and the inactive stem width of the other, a child would get a value of neither.
        root_donor = {gene.name: rng.choice(parents) for gene in self.genes if gene.stage_index is None}
        return self.decode(
            {
                gene.name: (
                    root_donor[gene.parent or gene.name] if gene.stage_index is None else donor[gene.stage_index]
                )[gene.name]
                for gene in self.genes
            }
        )

    def _draw(self, rng: random.Random) -> dict[str, Choice]:
        return {gene.name: rng.choice(gene.choices) for gene in self.genes}
