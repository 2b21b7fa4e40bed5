"""What the comparison says in words, and what it does not compare, and why."""

from __future__ import annotations

from reports.compare.sides import Pair, Side, SideBySide

FEW_SHARED = 10  # nets from which a rank correlation is worth a sentence
ONE_SEARCH = (
    "Each side is one search: another seed would have found another front, so a small difference says nothing about "
    "the samplers or settings behind it."
)


def headline(comparison: SideBySide) -> tuple[str, ...]:
    """The outcome, a few sentences a pair."""
    said = [sentence for pair in comparison.pairs for sentence in _pair(comparison, pair)]
    return (*said, ONE_SEARCH) if comparison.agreement.one_plane else tuple(said)


def not_compared(comparison: SideBySide) -> tuple[str, ...]:
    """Every reason, and what it forbids."""
    agreed = comparison.agreement
    said = []
    if agreed.quality:
        said.append(f"{' '.join(agreed.quality)} So qualities, fronts and hypervolumes are not compared.")
    if agreed.speed:
        said.append(f"{' '.join(agreed.speed)} So speeds, fronts and hypervolumes are not compared.")
    if agreed.measured:
        rest = " and no net is called better than another study's: coverage is left out" if agreed.one_plane else ""
        said.append(f"{' '.join(agreed.measured)} Each speed is relative to the reference net on its own device{rest}.")
    return tuple(said)


def cautions(comparison: SideBySide) -> tuple[str, ...]:
    """What differs beside what was searched, though the numbers compare."""
    if not comparison.agreement.one_plane:
        return ()
    sides, own = comparison.sides, comparison.agreement.cautions
    spent = {len(side.summary.curve) for side in sides}
    if len(spent) < 2:
        return own
    lengths = "; ".join(f"{side.letter}: {len(side.summary.curve)}" for side in sides)
    return (*own, f"The searches evaluated different numbers of architectures: {lengths}.")


def _pair(comparison: SideBySide, pair: Pair) -> list[str]:
    said = []
    if comparison.agreement.one_plane:
        said += [_volumes(pair), *_reached(pair)]
    return [*said, *_ranks(comparison, pair)]


def _volumes(pair: Pair) -> str:
    a, b = pair.first, pair.other
    final = f"{a.letter} ends with a hypervolume of {a.summary.hypervolume:.4f}, {b.letter} with "
    final += f"{b.summary.hypervolume:.4f}, above one common reference point"
    if not pair.trainings:
        return f"{final}."
    then = f"after {pair.trainings} trainings, all that the shorter search made, they stand at "
    return f"{final}; {then}{pair.volumes[0]:.4f} and {pair.volumes[1]:.4f}."


def _reached(pair: Pair) -> list[str]:
    sides: tuple[Side, Side] = (pair.first, pair.other)
    said = []
    for side, rival, reached in zip(sides, sides[::-1], pair.reached, strict=True):
        if reached is not None:
            rest = f"{reached} trainings where {rival.letter} made {len(rival.summary.curve)}"
            said.append(f"{side.letter} reached {rival.letter}’s final hypervolume after {rest}.")
    return said


def _ranks(comparison: SideBySide, pair: Pair) -> list[str]:
    a, b = pair.first.letter, pair.other.letter
    if not pair.shared:
        return [f"{a} and {b} have no measured net in common."]
    said = []
    for what, nets, tau, other in (
        ("speed", pair.measured, pair.speed_tau, comparison.agreement.speed or comparison.agreement.measured),
        ("quality", pair.trained, pair.quality_tau, comparison.agreement.quality),
    ):
        if nets < FEW_SHARED or tau is None:
            said.append(f"{nets} nets with a {what} are in both {a} and {b}: too few to say whether they rank alike.")
        else:
            though = ", though their numbers don’t compare" if other else ""
            said.append(f"By {what}, {a} and {b} rank the {nets} nets that both have with τ {tau:.2f}{though}.")
    return said
