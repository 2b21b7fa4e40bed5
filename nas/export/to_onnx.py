"""``--format onnx``: write model.onnx, then check it in ONNX Runtime against PyTorch, and time it in fp32."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from nas.distill.adaptor import is_whole
from nas.export import ExportError
from nas.export.graph import (
    BATCHES,
    Run,
    cases,
    check_graph,
    check_rounding,
    deployed,
    outputs,
    size_step,
    time_graph,
)
from nas.export.half_precision import write_rounded
from nas.export.source import IMAGES_USAGE, ExportSource, FormatReport
from nas.measure.runtime_spec import Arm, ArmError
from nas.measure.runtimes.contract import arm_errors, import_optional
from nas.measure.runtimes.onnx_graph import INPUT, write_graph
from nas.measure.runtimes.onnx_runtime import open_session
from nas.scratch import scratch_folder

FILE = "model.onnx"
ONE_FILE = 1 << 30  # bytes of weights; larger ones are in model.onnx.data, for protobuf ends at 2 GiB

USAGE = f"""import onnxruntime
{IMAGES_USAGE}
session = onnxruntime.InferenceSession("FOLDER/model.onnx")
summary, spatial, *heads = session.run(None, {{"images": images}})  # (B, C), (B, D, h, w), those of teachers' heads"""
TENSORRT_USAGE = """import tensorrt  # pip install tensorrt; input, weights and outputs have the types of the file

logger = tensorrt.Logger(tensorrt.Logger.WARNING)
builder = tensorrt.Builder(logger)
# Strongly typed: with the file's precisions. TensorRT 10 needs the flag, 11 has no other networks.
network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = tensorrt.OnnxParser(network, logger)
if not parser.parse_from_file("FOLDER/model.onnx"):
    raise SystemExit(parser.get_error(0).desc())
config, profile = builder.create_builder_config(), builder.create_optimization_profile()
profile.set_shape("images", (1, 3, PX, PX), (8, 3, PX, PX), (32, 3, PX, PX))  # smallest, usual and largest batch
config.add_optimization_profile(profile)
with open("FOLDER/model.plan", "wb") as file:
    file.write(builder.build_serialized_network(network, config))"""


def write(source: ExportSource, folder: Path, arm: Arm) -> FormatReport:
    """Write a graph for any batch and, where windows allow it, any size; ExportError where that is impossible."""
    px, step, path = source.image_px, size_step(source.model), folder / FILE
    reason = f"its windows need multiples of {step} px" if px % step else ""
    if not all(is_whole(adaptor.stride) for adaptor in source.adaptors.values()):
        reason = "its heads resize the map by a factor that depends on the size"
    dynamic: int | None = None if reason else step
    if dynamic is not None:
        try:
            run, error = _attempt(source, arm, path, step)
        except (ArmError, ExportError) as refusal:
            dynamic, reason = None, str(refusal).partition("here: ")[2] or str(refusal)
    if dynamic is None:
        try:
            run, error = _attempt(source, arm, path, None)
        except ArmError as refusal:
            raise ExportError(f"--format onnx: {refusal}") from None
    sizes = (
        f"any size in multiples of {dynamic} px"
        if dynamic
        else f"{px} x {px} px only ({' '.join(reason.split())[:160]})"
    )
    checked = f"batches of {', '.join(map(str, BATCHES))}; sizes {_sizes(px, dynamic)}"
    lines, usage, times = _check_report(source, arm.precision, run, error, checked)
    about = {
        "size_step_px": dynamic,
        "error": error,
        "outputs": outputs(source),
        "fused": arm.form == "fused",
        "precision": arm.precision,
        "times": times,
    }
    return FormatReport(usage, (f"batch: any; size: {sizes}", *lines), about)


def _check_report(
    source: ExportSource, precision: str, run: Run, error: float, checked: str
) -> tuple[tuple[str, ...], str, dict[str, Any] | None]:
    """Return lines about check and speed, the example, and the times; only a graph in fp32 is timed, on this CPU."""
    if precision == "fp32":
        times = time_graph(run, source, torch.randn(1, 3, source.image_px, source.image_px))
        line = f"ONNX Runtime's outputs differ from PyTorch's by at most {error:.1e} of the largest one ({checked})"
        return (line, times.line("ONNX Runtime")), USAGE, times.to_dict()
    lines = (
        f"input, weights and outputs are {precision}; what the model computes in fp32, as sums of linear attention, is "
        "fp32 in the graph too",
        f"with each operator's result rounded to {precision}, outputs differ from those of fp32 PyTorch by at most "
        f"{error:.1e} of their norm ({checked}); not run on a device that computes in {precision}",
    )
    return lines, TENSORRT_USAGE, None


def _sizes(px: int, step: int | None) -> str:
    return ", ".join(dict.fromkeys(f"{height} x {width}" for _, height, width in cases(px, step)))


def _attempt(source: ExportSource, arm: Arm, path: Path, step: int | None) -> tuple[Run, float]:
    """Write and check the graph; return a function that runs it on the CPU, and its error.

    A graph of half precision is run as `write_rounded` says.
    """
    model, tried, name = deployed(source, arm), cases(source.image_px, step), "the ONNX graph"
    with arm_errors("onnx", Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's warnings concern its authors
        _write(model, arm.dtype, path, source.image_px, step, outputs(source))
    if arm.precision == "fp32":
        run = session(path)
        return run, check_graph(name, run, model, tried)
    with scratch_folder("nas-onnx-") as scratch:
        write_rounded(path, scratch / FILE)
        run = session(scratch / FILE)
        return run, check_rounding(f"{name} in {arm.precision}", run, source, arm.precision, tried)


def _write(model: nn.Module, dtype: torch.dtype, path: Path, px: int, step: int | None, names: Sequence[str]) -> None:
    axes: dict[int, Any] = {0: Dim("batch")}
    height = width = px
    if step is not None:
        # At least two steps a side, and not a square: the exporter treats a 1 and equal sides as constants.
        height, width = max(px, 2 * step), max(px, 2 * step) + step
        axes |= {2: step * Dim("rows"), 3: step * Dim("columns")}
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    write_graph(
        model,
        torch.randn(2, 3, height, width, dtype=dtype),
        path,
        dynamic_shapes={INPUT: axes},
        output_names=names,
        external_data=weights > ONE_FILE,
    )
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
    node, kind = onnx.helper.make_node, graph.input[0].type.tensor_type.elem_type  # also that of all outputs
    int64 = onnx.TensorProto.INT64
    constants: list[Any] = [("side_step", int64, [], step), ("side_zero", kind, [1], 0.0)]
    graph.initializer.extend(onnx.helper.make_tensor(name, of, shape, [value]) for name, of, shape, value in constants)
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
    """Return a function of images that runs an ONNX file of fp32 on the CPU with torch's number of threads."""
    library = import_optional("onnxruntime", "onnx")
    with arm_errors("onnxruntime", Exception):
        inference = open_session(library, path, torch.device("cpu"))

    def run(images: Tensor) -> list[Tensor]:
        with arm_errors("onnxruntime", Exception):
            return [torch.from_numpy(array) for array in inference.run(None, {INPUT: images.float().numpy()})]

    return run
