"""What leads from a student's features to a teacher's own. Imports torch alone: exports carry this file with them."""

from __future__ import annotations

from torch import Tensor, nn


def mlp(width_in: int, hidden: int, width_out: int) -> nn.Sequential:
    """Two linear layers with LayerNorm and GELU between them, on the last dimension. Source: AM-RADIO."""
    return nn.Sequential(nn.Linear(width_in, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, width_out))


def module_name(teacher: str) -> str:
    """A teacher's name as PyTorch allows it for a module."""
    return teacher.replace(".", "_")


class Adaptor(nn.Module):
    """A student's features to one teacher's own: `summary` is None for a teacher without one.

    Both heads are MLPs on the last dimension; `fingerprint` is of the teacher's weights and preprocessing.
    """

    def __init__(self, summary: nn.Sequential | None, spatial: nn.Sequential, fingerprint: str) -> None:
        super().__init__()
        self.summary, self.spatial, self.fingerprint = summary, spatial, fingerprint

    def forward(self, summary: Tensor, spatial: Tensor) -> tuple[Tensor | None, Tensor]:
        """(B, Cs) and (B, C, h, w) of the student, any h and w, to the teacher's widths."""
        mapped = self.spatial(spatial.movedim(1, -1)).movedim(-1, 1)
        return None if self.summary is None else self.summary(summary), mapped
