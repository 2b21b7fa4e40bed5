"""Compute an ONNX graph of half precision on a CPU as a device does that has the precision.

ONNX Runtime has no operators for bfloat16 on a CPU. It computes most of those for fp16 in fp32 and keeps such values
between operators, so that sums which overflow on a GPU do not overflow there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nas.measure.runtimes.contract import import_optional


def write_rounded(path: Path, copy: Path) -> None:
    """Write a copy of a graph that takes, computes and returns fp32, but rounds values as the graph does.

    Weights keep the graph's values. Each operator computes in fp32. A result that has half precision in the graph is
    rounded to that, and becomes infinite where it overflows.

    Args:
        path: The graph, in which the type of each operator's result is known, as the exporter of PyTorch writes it.
        copy: File to write, with its weights next to it.
    """
    onnx = import_optional("onnx", "onnx")
    file = onnx.load(path)
    graph, single = file.graph, onnx.TensorProto.FLOAT
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    values = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    half_types = {name: kind.elem_type for name, kind in values.items() if kind.elem_type in halves}
    nodes = [each for node in graph.node for each in _rounded(onnx, node, half_types)]
    for tensor in _tensors(onnx, graph):
        if tensor.data_type in halves:
            values_in_fp32 = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values_in_fp32, tensor.name))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in halves:
            value.type.tensor_type.elem_type = single
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.save(file, copy, save_as_external_data=True)  # fp32 weights may take more than protobuf's 2 GiB


def _rounded(onnx: Any, node: Any, half_types: dict[str, int]) -> list[Any]:
    """Return a node and the casts that round its results of half precision; the node is changed."""
    after = []
    for i, name in enumerate(node.output):
        if name in half_types:
            exact, rounded = f"{name}_exact", f"{name}_rounded"
            node.output[i] = exact
            after.append(onnx.helper.make_node("Cast", [exact], [rounded], to=half_types[name]))
            after.append(onnx.helper.make_node("Cast", [rounded], [name], to=onnx.TensorProto.FLOAT))
    return [node, *after]


def _tensors(onnx: Any, graph: Any) -> list[Any]:
    """Return the tensors of weights and constants."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    return [*graph.initializer, *(each.t for each in attributes if each.type == onnx.AttributeProto.TENSOR)]
