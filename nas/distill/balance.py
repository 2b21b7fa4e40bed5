"""Balances: how the teachers' losses become one, so that no single teacher leads the student.

A step's loss is divided by the number of its teachers times the mean weight of the study's teachers. So it has the
scale of a single loss, and the weight of a teacher that is alone in its group counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

import torch
from torch import Tensor, nn

from nas.distill import distributed

PerImage = Mapping[str, Tensor]  # "teacher/head" -> loss of each image (B,)


class Balance(nn.Module):
    """Fixed weights, and the base class of balances that learn or draw.

    Args:
        weights: "teacher/head" -> its share, of all teachers of the study. Losses of one teacher share its weight.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)
        self._mean_weight = self._mean_weight_of(weights)

    def forward(self, losses: PerImage) -> Tensor:
        """Return one scalar to minimize."""
        terms = [self.weights[key] * loss.mean() for key, loss in losses.items()]
        return torch.stack(terms).sum() / self._total(losses)

    def end_step(self) -> None:
        """Note that a step of the optimizer is done, whose parts have all been weighed."""

    def _total(self, losses: PerImage) -> float:
        """Return the number of teachers in a step, times the mean weight of a teacher of the study."""
        return sum(self.weights[key] for key in losses) * self._share(losses)

    def _share(self, losses: PerImage) -> float:
        """Return the mean weight of the study's teachers over that of a step's: exactly 1 where they are equal."""
        return float(self._mean_weight / self._mean_weight_of(losses))

    def _mean_weight_of(self, keys: Iterable[str]) -> Fraction:
        """Return the mean weight of the teachers that have these keys; a fraction, which has no rounding."""
        keys = list(keys)
        return sum((Fraction(self.weights[key]) for key in keys), Fraction()) / len(
            {key.rpartition("/")[0] for key in keys}
        )


class Uncertainty(Balance):
    """exp(-s) loss + s with a learned s each (Kendall et al., arXiv 1705.07115)."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self.keys = list(weights)
        self.log_variance = nn.Parameter(torch.zeros(len(self.keys)))

    def forward(self, losses: PerImage) -> Tensor:
        """Return one scalar to minimize, s included."""
        terms = []
        for key, loss in losses.items():
            s = self.log_variance[self.keys.index(key)]
            terms.append(self.weights[key] * (torch.exp(-s) * loss.mean() + s))
        return torch.stack(terms).sum() / self._total(losses)


class AdaLoss(Balance):
    """Each loss over its own running mean, so that all shrink at the same relative rate (arXiv 1708.06832).

    The running means advance once a step of the optimizer, by the mean over the step's parts and the ranks. A part is
    weighed by what they would be after the parts so far.
    """

    running: Tensor
    memory = 0.98

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self.keys = list(weights)
        self.register_buffer("running", torch.zeros(len(self.keys)))
        self._step: dict[str, list[Tensor]] = {}  # the loss of each part so far of the present step

    def forward(self, losses: PerImage) -> Tensor:
        """Return one scalar to minimize."""
        means = torch.stack([loss.mean() for loss in losses.values()])
        for key, mean in zip(losses, distributed.all_reduce_mean(means.detach()), strict=True):
            self._step.setdefault(key, []).append(mean)
        terms = [
            self.weights[key] * mean / self._advanced(key).clamp(min=1e-12)
            for key, mean in zip(losses, means, strict=True)
        ]
        return torch.stack(terms).sum() / self._total(losses)

    def end_step(self) -> None:
        """Advance the running means of the step's losses."""
        for key in self._step:
            self.running[self.keys.index(key)] = self._advanced(key)
        self._step = {}

    def _advanced(self, key: str) -> Tensor:
        """Return a running mean after the present step, as far as its parts are known."""
        old, new = self.running[self.keys.index(key)], torch.stack(self._step[key]).mean()
        # In float64, or 0.98 would be rounded before the product. A running mean of 0 has not seen a loss yet.
        remembered = (self.memory * old.double()).float()
        return torch.where(old != 0, remembered + (1 - self.memory) * new, new)


class Dropping(Balance):
    """Teacher dropping of UNIC (arXiv 2408.05088).

    For each image the teacher with the largest loss stays; any other is left out half of the time.
    """

    probability = 0.5

    def forward(self, losses: PerImage) -> Tensor:
        """Return one scalar to minimize; which teachers stay is drawn from torch's CPU generator."""
        teachers = list(dict.fromkeys(key.rpartition("/")[0] for key in losses))
        keys_of = [[key for key in losses if key.rpartition("/")[0] == teacher] for teacher in teachers]
        sums = [torch.stack([self.weights[key] * losses[key] for key in keys]).sum(0) for keys in keys_of]
        table = torch.stack(sums)  # (teachers, B)
        shares = torch.tensor([sum(self.weights[key] for key in keys) for keys in keys_of])[:, None]
        ranks = distributed.world_size()
        draws = torch.rand(len(teachers), table.shape[1] * ranks)  # for all ranks' images, the same on each
        kept = draws[:, distributed.rank() :: ranks] >= self.probability
        # Without non_blocking a copy to a GPU would wait for all that is queued there.
        kept, shares = (values.to(table.device, non_blocking=True) for values in (kept, shares))
        kept.scatter_(0, table.detach().argmax(0, keepdim=True), True)
        return ((table * kept).sum(0) / ((shares * kept).sum(0) * self._share(losses))).mean()


BALANCES: dict[str, Callable[[Mapping[str, float]], Balance]] = {
    "fixed": Balance,
    "uncertainty": Uncertainty,
    "adaloss": AdaLoss,
    "drop": Dropping,
}
