"""``--format onnx``: write model.onnx, then check and time it in ONNX Runtime against PyTorch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from nas.distill.adaptor import is_whole
from nas.export import ExportError
from nas.export.graph import BATCHES, DeployedModel, cases, check_graph, outputs, size_step, time_graph
from nas.export.source import IMAGES_USAGE, ExportSource, FormatReport
from nas.measure.arms import ArmError
from nas.measure.runtimes.contract import arm_errors, import_optional
from nas.measure.runtimes.onnx_graph import INPUT, Exportable
from nas.measure.runtimes.onnx_runtime import open_session

FILE = "model.onnx"
ONE_FILE = 1 << 30  # bytes of weights; larger ones are in model.onnx.data, for protobuf ends at 2 GiB

USAGE = f"""import onnxruntime
{IMAGES_USAGE}
session = onnxruntime.InferenceSession("FOLDER/model.onnx")
summary, spatial, *heads = session.run(None, {{"images": images}})  # (B, C), (B, D, h, w), those of teachers' heads"""


def write(source: ExportSource, folder: Path, fused: bool) -> FormatReport:
    """Write a graph for any batch and, where windows allow it, any size; ExportError where that is impossible."""
    model, px, step = DeployedModel(source, fused), source.image_px, size_step(source.model)
    path = folder / FILE
    reason = f"its windows need multiples of {step} px" if px % step else ""
    if not all(is_whole(adaptor.stride) for adaptor in source.adaptors.values()):
        reason = "its heads resize the map by a factor that depends on the size"
    dynamic: int | None = None if reason else step
    if dynamic is not None:
        try:
            run, error = _attempt(model, path, px, step, outputs(source))
        except (ArmError, ExportError) as refusal:
            dynamic, reason = None, str(refusal).partition("here: ")[2] or str(refusal)
    if dynamic is None:
        try:
            run, error = _attempt(model, path, px, None, outputs(source))
        except ArmError as refusal:
            raise ExportError(f"--format onnx: {refusal}") from None
    times = time_graph(run, source, torch.randn(1, 3, px, px))
    sizes = (
        f"any size in multiples of {dynamic} px"
        if dynamic
        else f"{px} x {px} px only ({' '.join(reason.split())[:160]})"
    )
    lines = (
        f"batch: any; size: {sizes}",
        f"ONNX Runtime's outputs differ from PyTorch's by at most {error:.1e} of the largest one (batches of "
        f"{', '.join(map(str, BATCHES))}; sizes {_sizes(px, dynamic)})",
        times.line("ONNX Runtime"),
    )
    about = {
        "size_step_px": dynamic,
        "error": error,
        "outputs": outputs(source),
        "fused": fused,
        "times": times.to_dict(),
    }
    return FormatReport(USAGE, lines, about)


def _sizes(px: int, step: int | None) -> str:
    return ", ".join(dict.fromkeys(f"{height} x {width}" for _, height, width in cases(px, step)))


def _attempt(model: nn.Module, path: Path, px: int, step: int | None, names: Sequence[str]) -> tuple[Any, float]:
    """Write and check the graph; return a function that runs the file, and its error."""
    with arm_errors("onnx", Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's warnings concern its authors
        _write(model, path, px, step, names)
    run = session(path)
    return run, check_graph("the ONNX graph", run, model, cases(px, step))


def _write(model: nn.Module, path: Path, px: int, step: int | None, names: Sequence[str]) -> None:
    axes: dict[int, Any] = {0: Dim("batch")}
    height = width = px
    if step is not None:
        # At least two steps a side, and not a square: the exporter treats a 1 and equal sides as constants.
        height, width = max(px, 2 * step), max(px, 2 * step) + step
        axes |= {2: step * Dim("rows"), 3: step * Dim("columns")}
    example = torch.randn(2, 3, height, width)
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    with torch.inference_mode(False), torch.no_grad():
        traced = torch.export.export(
            Exportable(model, channels_last=False).eval(), (example,), dynamic_shapes={INPUT: axes}, strict=False
        )
        torch.onnx.export(
            traced, (), path, input_names=[INPUT], output_names=list(names), dynamo=True, verbose=False,
            external_data=weights > ONE_FILE,
        )  # fmt: skip
    _finish(path, step)


def _finish(path: Path, step: int | None) -> None:
    """Name the free dimensions, and let the graph refuse sides that are no multiple of `step`, as PyTorch does.

    Runtimes do not check them: some would compute other features, others fail somewhere inside.
    """
    onnx = import_optional("onnx", "onnx")
    file = onnx.load(path, load_external_data=False)
    sides = file.graph.input[0].type.tensor_type.shape.dim
    symbols = [re.split(r"\W", sides[axis].dim_param)[-1] for axis in (0, 2, 3)]  # as in "s34" and "32*s30"
    names = {symbol: name for symbol, name in zip(symbols, ("batch", "rows", "columns"), strict=True) if symbol}
    for value in (*file.graph.input, *file.graph.output, *file.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dim.dim_param)
    if step is not None:
        _refuse_other_sides(onnx, file.graph, step)
    onnx.save(file, path)
    onnx.checker.check_model(path)  # the file: the weights next to it are looked for there


def _refuse_other_sides(onnx: Any, graph: Any, step: int) -> None:
    """Add 0 to each output, taken from a list of one element at the position of each side's remainder."""
    constants = {"side_step": np.array(step), "side_zero": np.zeros(1, np.float32)}
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    node = onnx.helper.make_node
    rule = f"height_and_width_must_be_multiples_of_{step}"
    first = [
        node("Shape", [INPUT], ["sides"], start=2, end=4),
        node("Mod", ["sides", "side_step"], ["side_remainders"]),
        node("Gather", ["side_zero", "side_remainders"], ["side_zeros"], rule),
        node("ReduceMax", ["side_zeros"], ["side_check"], keepdims=0),
    ]
    for place, check in enumerate(first):
        graph.node.insert(place, check)
    for output in graph.output:
        (producer,) = (each for each in graph.node if output.name in each.output)
        position = list(producer.output).index(output.name)
        producer.output[position] = f"{output.name}_of_any_sides"
        for reader in graph.node:
            for i, name in enumerate(reader.input):
                if name == output.name:
                    reader.input[i] = producer.output[position]
        graph.node.append(node("Add", [producer.output[position], "side_check"], [output.name]))


def session(path: Path) -> Any:
    """Return a function of images that runs an ONNX file on the CPU with torch's number of threads."""
    library = import_optional("onnxruntime", "onnx")
    with arm_errors("onnxruntime", Exception):
        inference = open_session(library, path, torch.device("cpu"))

    def run(images: Tensor) -> list[Tensor]:
        with arm_errors("onnxruntime", Exception):
            return [torch.from_numpy(array) for array in inference.run(None, {INPUT: images.numpy()})]

    return run
