"""Space: a set of architectures to sample, vary, count and translate to and from flat parameters."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from search_space.arch import ArchSpec, StageSpec
from search_space.checks import SpecError, within_choices
from search_space.genes import Choice, Gene, StageChoices, count, stage_genes


@dataclass(frozen=True)
class Space:
    """Every combination of its choices is a valid spec; what one choice asks of another is checked here, once."""

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
        genes = [gene for place, stage in enumerate(self.stages) for gene in stage_genes(stage, place)]
        genes += [
            Gene("stem", None, "stem", self.stems),
            Gene("stem_width", None, "stem_width", self.stem_widths, "stem", frozenset({"conv"})),
            Gene("downsampling", None, "downsampling", self.downsamplings),
            Gene("neck", None, "neck", self.necks),
            Gene("neck_dim", None, "neck_dim", self.neck_dims, "neck", frozenset(self.necks) - {"none"}),
        ]
        return tuple(genes)

    def choices(self) -> dict[str, tuple[Choice, ...]]:
        """Parameter name -> its categorical choices; the same parameters for every spec."""
        return {gene.name: gene.choices for gene in self.genes}

    def count(self) -> int:
        """Exact number of distinct specs."""
        return count(self.genes)

    def decode(self, params: Mapping[str, Choice]) -> ArchSpec:
        """The spec that `params` describe. Raises SpecError for a missing parameter or a value outside the choices."""
        whole_net: dict[str, Any] = {}
        per_stage: list[dict[str, Any]] = [{} for _ in self.stages]
        for gene in self.genes:
            if gene.name not in params:
                raise SpecError(f"{gene.name}: parameter is missing")
            within_choices(gene.name, params[gene.name], gene.choices)
        for gene in self.genes:
            if gene.active(params):
                target = whole_net if gene.place is None else per_stage[gene.place]
                target[gene.field] = params[gene.name]
        return ArchSpec(stages=tuple(StageSpec(**fields) for fields in per_stage), **whole_net)

    def encode(self, spec: ArchSpec) -> dict[str, Choice]:
        """Parameters with ``decode(encode(spec)) == spec``; inactive ones get their first choice.

        Raises SpecError that names the first parameter whose value the space doesn't offer.
        """
        params: dict[str, Choice] = {}
        for gene in self.genes:
            value = getattr(spec if gene.place is None else spec.stages[gene.place], gene.field)
            if gene.active(params):
                within_choices(gene.name, value, gene.choices)
                params[gene.name] = value
            else:
                params[gene.name] = gene.choices[0]
        return params

    def parse(self, plain: Mapping[str, Any]) -> ArchSpec:
        """Inverse of `ArchSpec.to_dict`. Raises SpecError for what is none."""
        return ArchSpec.from_dict(plain)

    def contains(self, spec: ArchSpec) -> bool:
        """Whether the space can produce `spec`."""
        try:
            return self.decode(self.encode(spec)) == spec
        except SpecError:
            return False

    def sample(self, rng: random.Random) -> ArchSpec:
        """A random spec: every parameter uniform and independent."""
        return self.decode(self._draw(rng))

    def mutate(self, spec: ArchSpec, rng: random.Random) -> ArchSpec:
        """A neighbour of `spec` in one or two active parameters, never `spec` itself.

        A new block keeps what it shares with the old one and draws the rest. Raises SpecError where `spec` lies
        outside the space or the space holds nothing else.
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
        """A child that takes each stage whole from one parent, and each parameter of the whole net from either."""
        parents = self.encode(a), self.encode(b)
        donor = [rng.choice(parents) for _ in self.stages]
        # A child with its parent's stem but the other's inactive stem width would get a value that neither had.
        donor_of_root = {gene.name: rng.choice(parents) for gene in self.genes if gene.place is None}
        return self.decode(
            {
                gene.name: (donor_of_root[gene.parent or gene.name] if gene.place is None else donor[gene.place])[
                    gene.name
                ]
                for gene in self.genes
            }
        )

    def _draw(self, rng: random.Random) -> dict[str, Choice]:
        return {gene.name: rng.choice(gene.choices) for gene in self.genes}
