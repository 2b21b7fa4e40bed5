"""NAS-Bench-Macro: its networks as a search space, and their published results.

A network has eight layers in three stages; each is the identity or one of two inverted residuals (Su et al., 2021,
arXiv 2103.11922). The paper's repository has the accuracies of three trainings, the parameters and the MACs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np

from nas.replay.published_table import Array, ProductSpace, PublishedTable, column, read_csv
from nas.validation import ConfigError

LAYERS = tuple(f"layer{i}" for i in range(1, 9))
BLOCKS = ("identity", "mbconv_k3_e3", "mbconv_k5_e6")  # in the order of the published digits
EXPANSIONS = (0.0, 3.0, 6.0)  # of the blocks
STAGES = ((0, 1), (2, 3, 4), (5, 6, 7))  # layers of each stage; the first changes the resolution
REFERENCE_ACCURACY = 85.0  # as of NAS-Bench-201 on CIFAR-10
TRAININGS = ("accuracy_0", "accuracy_1", "accuracy_2")
TABLE_COLUMNS = "a CSV with the columns arch (8 digits), accuracy_0, accuracy_1, accuracy_2, params, macs"


@dataclass(frozen=True)
class MacroNetwork:
    """A network, described by the published digit of each layer; equal networks have equal digits.

    Identities after a stage's first layer do nothing wherever they are, so they are moved to the stage's end.
    """

    digits: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "digits", _canonical(self.digits))

    @property
    def arch_id(self) -> str:
        """Return the published name, as ``12001200``."""
        return self.digits

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"layers": self.digits}

    @classmethod
    def of(cls, blocks: tuple[str, ...]) -> Self:
        """Return the network of these blocks."""
        return cls("".join(str(BLOCKS.index(block)) for block in blocks))

    def log_sizes(self) -> tuple[float, ...]:
        """Return log2 of 1 + expansion of each layer, and of 1 + number of blocks of each stage; identities have 0."""
        expansions = [1 + EXPANSIONS[int(digit)] for digit in self.digits]
        depths = [1 + sum(self.digits[layer] != "0" for layer in stage) for stage in STAGES]
        return tuple(float(size) for size in np.log2([*expansions, *depths]))


@cache
def _canonical(digits: str) -> str:
    """Return the digits with each stage's identities, but for its first layer, moved to the stage's end."""
    moved = []
    for first, *others in STAGES:
        kept = [digits[layer] for layer in others if digits[layer] != "0"]
        moved += [digits[first], *kept, *"0" * (len(others) - len(kept))]
    return "".join(moved)


NETWORKS = ProductSpace(
    "macro",
    LAYERS,
    BLOCKS,
    MacroNetwork.of,
    lambda network: tuple(BLOCKS[int(digit)] for digit in network.digits),
    lambda plain: MacroNetwork(plain["layers"]),
)


def load_macro(table_csv: str | None) -> PublishedTable:
    """Read the published results, with the accuracies of all three trainings.

    Args:
        table_csv: The table, with the columns of `TABLE_COLUMNS`.

    Raises:
        ConfigError: There is no file, or it lacks a column or a network.
    """
    if table_csv is None:
        raise ConfigError(f"--table: macro needs it: {TABLE_COLUMNS}")
    rows = read_csv("--table", table_csv, TABLE_COLUMNS)
    networks = list(NETWORKS.architectures)
    names = [network.arch_id for network in networks]
    trainings = np.column_stack([column("--table", table_csv, rows, name, names) for name in TRAININGS])
    macs, params = (column("--table", table_csv, rows, name, names) for name in ("macs", "params"))
    digits = np.array([[int(digit) for digit in name] for name in names], dtype=float)

    def sizes() -> Array:
        return np.column_stack([[network.log_sizes() for network in networks], np.log2(macs)])

    return PublishedTable(
        bench="macro",
        dataset="cifar10",
        space=NETWORKS,
        architectures=networks,
        trainings=trainings,
        train_s=macs / macs.max(),  # not published; in proportion to the MACs
        params=params,
        costs=macs / 1e6,
        cost="macs",
        cost_label="published MACs",
        cost_unit="M",
        reference_accuracy=REFERENCE_ACCURACY,
        sources={
            "layers": lambda: digits,
            "cost": lambda: np.log(macs)[:, None],
            "params": lambda: np.log(params)[:, None],
        },
        sizes=sizes,
    )
