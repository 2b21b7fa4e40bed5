"""Print the least costs of each space, which `nas/search/preconditions.py` records as `_LEAST`.

Command:   python -m experiments.least_costs
Hardware:  any; everything is counted on the meta device
Time:      15 s of one core
Expected:  the recorded numbers, as long as no space changes

Of 20,000 random architectures, the 100 with the smallest sum over the stages of depth times squared width are counted
for the parameters; for the MACs those with the smallest sum of it times the places of the stage's map.
"""

from __future__ import annotations

import random

from nas.measure.counts.totals import totals
from search_space import SPACES, ArchSpec, Space

SAMPLED, COUNTED = 20_000, 100


def least_costs(space: Space, px: int) -> tuple[int, float]:
    """Return the least parameters, and the least MACs of an image for each of its pixels."""
    rng = random.Random(0)
    specs = [space.sample(rng) for _ in range(SAMPLED)]
    params = min(totals(spec, px).params for spec in sorted(specs, key=_params_like)[:COUNTED])
    macs = min(totals(spec, px).macs for spec in sorted(specs, key=_macs_like)[:COUNTED])
    return params, round(macs / px**2, 1)


def _params_like(spec: ArchSpec) -> float:
    return sum(stage.depth * stage.width**2 for stage in spec.stages)


def _macs_like(spec: ArchSpec) -> float:
    pairs = zip(spec.stages, spec.strides, strict=True)
    return sum(stage.depth * (stage.width / stride) ** 2 for stage, stride in pairs)


if __name__ == "__main__":
    print({name: least_costs(space, space.image_px) for name, space in SPACES.items()})
