"""Print the least costs of each space, which `nas/search/preconditions.py` records as `_LEAST`.

Command:   python -m experiments.least_costs
Hardware:  any; everything is counted on the meta device
Time:      half a minute of one core
Expected:  the recorded numbers, as long as no space changes

Of 20,000 random architectures, the 40 with the smallest sum of depth times squared width are counted.
"""

from __future__ import annotations

import random

from nas.measure.counts.totals import totals
from search_space import SPACES, ArchSpec, Space

RESOLUTIONS_PX = {"micro": 64, "full": 224}
SAMPLED, COUNTED = 20_000, 40


def least_costs(space: Space, px: int) -> tuple[int, float]:
    """Return the least parameters, and the least MACs of an image for each of its pixels."""
    rng = random.Random(0)
    specs = sorted((space.sample(rng) for _ in range(SAMPLED)), key=_size)[:COUNTED]
    costs = [totals(spec, px) for spec in specs]
    return min(each.params for each in costs), round(min(each.macs for each in costs) / px**2, 1)


def _size(spec: ArchSpec) -> int:
    return sum(stage.depth * stage.width**2 for stage in spec.stages)


if __name__ == "__main__":
    print({name: least_costs(SPACES[name], px) for name, px in RESOLUTIONS_PX.items()})
