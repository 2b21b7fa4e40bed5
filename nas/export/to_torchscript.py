"""``--format torchscript``: write a traced model.pt, which ``torch.jit.load`` opens without this project."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from nas.export.graph import (
    BATCHES,
    cases,
    check_graph,
    deployed,
    outputs,
    time_graph,
)
from nas.export.source import IMAGES_USAGE, ExportSource, FormatReport
from nas.measure.runtime_spec import Arm
from search_space.arch import SIZE_MULTIPLE_PX

FILE = "model.pt"
ANY_DEVICE = "on the device of its weights (map_location of torch.jit.load)"
ONE_DEVICE = "on a CPU only, because the graph creates tensors there"
USAGE = f"""import torch
{IMAGES_USAGE}
model = torch.jit.load("FOLDER/model.pt")
with torch.inference_mode():
    summary, spatial, *heads = model(torch.from_numpy(images))  # (B, C), (B, D, h, w), those of teachers' heads"""


def write(source: ExportSource, folder: Path, arm: Arm) -> FormatReport:
    """Trace, write and check the file; ExportFailed where it does not compute the model."""
    model, px, path = deployed(source, arm), source.image_px, folder / FILE
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # about each decision by size, some of which change nothing
        traced: Any = torch.jit.trace(model, torch.randn(2, 3, px, px), check_trace=False)  # type: ignore[no-untyped-call]
        traced.save(str(path))
        run: Any = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    step = SIZE_MULTIPLE_PX if source.model.traces_any_size else None
    error = check_graph("the TorchScript file", run, model, cases(px, step))
    times = time_graph(run, source, torch.randn(1, 3, px, px))
    batches = ", ".join(map(str, BATCHES))
    sized = (
        f"any size in multiples of {step} px" if step else f"{px} x {px} px only; others may fail or give wrong outputs"
    )
    any_device = 'value="cpu"' not in str(run.inlined_graph)
    lines = (
        f"batch: any; size: {sized}",
        f"runs {ANY_DEVICE if any_device else ONE_DEVICE}; made and checked in fp32, other types are untested",
        f"TorchScript's outputs differ from PyTorch's by at most {error:.1e} of the largest one (batches of {batches})",
        times.line("TorchScript"),
    )
    about: dict[str, Any] = {
        "size_step_px": step,
        "error": error,
        "outputs": outputs(source),
        "fused": arm.form == "fused",
    }
    about |= {"any_device": any_device, "times": times.to_dict()}
    return FormatReport(USAGE, lines, about)
