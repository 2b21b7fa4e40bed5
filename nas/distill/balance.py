"""How the teachers' losses become one: what keeps a student from following a single teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from nas.distill import distributed

PerImage = Mapping[str, Tensor]  # "teacher/head" -> loss of each image (B,)


class Balance(nn.Module):
    """Weighs losses; base class: the fixed weights alone.

    Args:
        weights: "teacher/head" -> its share; a plain mean where all are 1. Losses of one teacher share its weight.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def forward(self, losses: PerImage) -> Tensor:
        """One scalar to minimise."""
        terms = [self.weights[key] * loss.mean() for key, loss in losses.items()]
        return torch.stack(terms).sum() / self._total(losses)

    def _total(self, losses: PerImage) -> float:
        return sum(self.weights[key] for key in losses)


class Uncertainty(Balance):
    """exp(-s) loss + s with a learned s each (Kendall et al., arXiv 1705.07115)."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self.keys = list(weights)
        self.log_variance = nn.Parameter(torch.zeros(len(self.keys)))

    def forward(self, losses: PerImage) -> Tensor:
        """One scalar to minimise, s included."""
        terms = []
        for key, loss in losses.items():
            s = self.log_variance[self.keys.index(key)]
            terms.append(self.weights[key] * (torch.exp(-s) * loss.mean() + s))
        return torch.stack(terms).sum() / self._total(losses)


class AdaLoss(Balance):
    """Each loss over its own running mean, so that all shrink at the same relative rate (arXiv 1708.06832)."""

    running: Tensor
    memory = 0.98

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self.keys = list(weights)
        self.register_buffer("running", torch.zeros(len(self.keys)))

    def forward(self, losses: PerImage) -> Tensor:
        """One scalar to minimise; the running means advance by one step."""
        terms = []
        for key, loss in losses.items():
            i, mean = self.keys.index(key), loss.mean()
            old, new = float(self.running[i]), distributed.mean_of_ranks(mean.detach())
            self.running[i] = self.memory * old + (1 - self.memory) * new if old else new
            terms.append(self.weights[key] * mean / self.running[i].clamp(min=1e-12))
        return torch.stack(terms).sum() / self._total(losses)


class Dropping(Balance):
    """For each image the teacher with the largest loss stays, any other is left out half of the time.

    Teacher dropping of UNIC (arXiv 2408.05088).
    """

    probability = 0.5

    def forward(self, losses: PerImage) -> Tensor:
        """One scalar to minimise; which teachers stay is drawn from torch's generator."""
        names = list(dict.fromkeys(key.rpartition("/")[0] for key in losses))
        mine = [[key for key in losses if key.rpartition("/")[0] == name] for name in names]
        shares = torch.tensor([sum(self.weights[key] for key in keys) for keys in mine])
        sums = [torch.stack([self.weights[key] * losses[key] for key in keys]).sum(0) for keys in mine]
        table = torch.stack(sums)  # (teachers, B)
        draws = torch.rand(len(mine), table.shape[1] * distributed.world())  # for all ranks' images, the same on each
        kept = draws[:, distributed.rank() :: distributed.world()].to(table.device) >= self.probability
        kept.scatter_(0, table.detach().argmax(0, keepdim=True), True)
        shares = shares.to(table.device)[:, None]
        return ((table * kept).sum(0) / (shares * kept).sum(0)).mean()


BALANCES: dict[str, Callable[[Mapping[str, float]], Balance]] = {
    "fixed": Balance,
    "uncertainty": Uncertainty,
    "adaloss": AdaLoss,
    "drop": Dropping,
}
