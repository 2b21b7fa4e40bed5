"""What a long training adds to a score: the model that chooses the candidates of a race."""

from __future__ import annotations

from nas.study.race import HorizonModel

# From 270 to 2,700 steps on 30,000 images, of 19 networks that score 0.5 or more at 270 (experiments.horizon_findings).
LAPTOP = HorizonModel(
    gain=0.3586, per_score=-0.495, per_doubling=0.0043, network_sd=0.0078, study_sd=0.15, seed_sd=0.003
)
