"""Trainings that two processes share, for test_distributed; a module that fresh processes can import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from backbones import build
from nas.distill import distributed
from nas.distill.trainer import Distiller, TrainingError
from nas.study.config import DistillConfig, Group
from search_space import ArchSpec, StageSpec, preset
from tests.nas.distill.targets_builder import two_teachers

STEPS = 5
PLAIN = DistillConfig(img_size=64, batch_size=8, warmup_steps=2, precision="fp32", rung_steps=(STEPS,))
GROUPS = (Group(("colour",), 8, (32,)), Group(("colour", "mean"), 16, (32, 64)))
RECIPES = {
    "plain": PLAIN,
    "parts": replace(PLAIN, accumulate=2, grad_checkpointing=True, balance="adaloss"),
    "groups": replace(PLAIN, groups=GROUPS, balance="uncertainty"),
    "drop": replace(PLAIN, balance="drop", summary_loss="cosine", spatial_loss="hybrid"),
}
State = dict[str, Any]


def made(folder: Path, config: DistillConfig) -> Distiller:
    """Without BatchNorm's batch statistics, which are a rank's own on CPU, ranks and one process take equal steps."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    run = Distiller(build(preset("eradio_femto")), two_teachers(folder), config, seed=0)
    for module in run.student.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return run


def trained(folder: Path, config: DistillConfig, steps: int = STEPS, state: State | None = None) -> State:
    """The state after `steps` steps, begun anew or from a state."""
    run = made(folder, config)
    if state is not None:
        run.load_state_dict(state)
    run.train_until(steps)
    run.close()
    return run.state_dict()


def recipes(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """What every rank finds: each of these recipes in one go, and the last one in two."""
    found: dict[str, Any] = {name: trained(folder, RECIPES[name]) for name in names}
    torch.save(trained(folder, RECIPES[names[-1]], 3), folder / f"half{distributed.rank()}.pt")
    distributed.barrier()
    half = torch.load(folder / "half0.pt", weights_only=True)  # every rank goes on from what rank 0 saved
    torch.manual_seed(99 + distributed.rank())
    return {**found, "in two": trained(folder, RECIPES[names[-1]], STEPS, half)}


def most(folder: Path) -> dict[str, Any]:
    """The plain recipe, BatchNorm's statistics, a loss that is not finite, an end that one rank asks for."""
    found = recipes(folder, ("plain",))
    found["norms"] = _with_norms(folder)
    found["broken"] = _broken(folder)
    found["stopped"] = _stopped(folder)
    found["token"] = _token_and_neck(folder)
    return found


def _token_and_neck(folder: Path) -> State:
    """A recipe and a network whose last norm is read by neither the map nor the summary."""
    vit = StageSpec("vit", 1, 16, expansion=2.0, heads=2, grid=2, registers=1)
    spec = ArchSpec((vit, vit), stem="patch16", neck="stage1", neck_dim=8, summary="token")
    torch.manual_seed(0)
    run = Distiller(build(spec), two_teachers(folder), PLAIN, seed=0)
    run.train_until(STEPS)
    run.close()
    return {"losses": run.losses}


def _with_norms(folder: Path) -> State:
    """All savings of memory together, which no sum of two batches would equal."""
    run = made(folder, replace(PLAIN, precision="bf16", accumulate=2, grad_checkpointing=True))
    run.student.train()
    run.train_until(2)
    run.close()
    return run.averaged.state_dict()


def _broken(folder: Path) -> str:
    """One rank's images are spoilt; all must stop, at the same step."""
    run = made(folder, PLAIN)
    if distributed.rank() == 1:
        with torch.no_grad():
            run.student.heads.spatial["colour"][-1].bias.fill_(float("inf"))
    try:
        run.train_until(2)
    except TrainingError as error:
        return str(error)
    finally:
        run.close()
    return "went on"


def _stopped(folder: Path) -> list[tuple[int, bool]]:
    """One rank is asked to stop from the second step on; return the last step of each lease, and whether to stop."""
    run, steps = made(folder, PLAIN), []
    run.train_until(
        5,
        lambda: steps.append((run.step, run.stopping)),
        lambda: distributed.rank() == 1 and run.step >= 2,
    )
    run.close()
    return steps


def rank(number: int, world: int, folder: Path, work: Callable[[Path], Any]) -> None:
    """Body of a process: joins the others and leaves what it found in `folder`."""
    with distributed.process_group(number, world, folder / "meeting"):
        torch.save(work(folder), folder / f"rank{number}.pt")
