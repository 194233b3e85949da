"""Test vectors for other people's kernels: ``python -m export.layer --help``.

Each case is a folder with ``network.onnx`` (one LIF, ConvLIF or recurrent ConvLIF with state in
and out), ``inputs.npz`` and ``outputs.npz``; the arrays are keyed by the graph's own names.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

import lif_op.spec
from calib_data.console import run
from export.errors import ExportError
from export.files import write_arrays, write_model
from export.graphs.builder import Dims, GraphBuilder
from export.graphs.floating import add_float_layer, add_neuron
from export.graphs.integer import lower
from export.graphs.source import add_source_layer
from export.network import add_network_arguments, load_network, positive_pair
from models import ConvLIF, LIFState, SpikingFireNet, lif_step
from quant import IntegerNetwork, IntegerState, QuantOptions, quantize

Arrays = dict[str, npt.NDArray[Any]]
Vector = tuple[onnx.ModelProto, Arrays, Arrays]


def _pick(model: SpikingFireNet, recurrent: bool) -> tuple[str, ConvLIF]:
    for index, (name, layer) in enumerate(model.named_layers()):
        if index > 0 and layer.recurrent == recurrent:
            return name, layer
    raise ExportError(f"{model.config.model} has no {'recurrent' if recurrent else 'plain'} layer")


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


def _spikes(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(shape, generator=generator) < 0.1).float()


def lif_vector(model: SpikingFireNet, resolution: tuple[int, int], seed: int) -> Vector:
    """A single ``snn::LIF``: current and membrane in, spike and membrane out."""
    name, layer = _pick(model, recurrent=False)
    dims = Dims(resolution, free=False)
    builder = GraphBuilder("LIF")
    shape = (1, layer.channels, *resolution)
    current = builder.input("current", "float32", shape)
    spike = add_neuron(builder, current, name, layer, dims)
    builder.output(spike, "float32", shape)
    generator = torch.Generator().manual_seed(seed)
    given, mem = _random(shape, generator), _random(shape, generator)
    beta, threshold = layer.effective_beta(), layer.effective_threshold()
    outputs = lif_step(given, mem, beta, threshold, layer.reset)
    return (
        builder.model([lif_op.spec.function("LIF")], None),
        _numpy({"current": given, f"mem.{name}": mem}),
        _numpy({f"spike_out.{name}": outputs[0], f"mem_out.{name}": outputs[1]}),
    )


def conv_lif_vector(
    recurrent: bool, model: SpikingFireNet, resolution: tuple[int, int], seed: int
) -> Vector:
    """A float ConvLIF, feed-forward or recurrent."""
    name, layer = _pick(model, recurrent)
    dims, shape = Dims(resolution, free=False), (1, layer.channels, *resolution)
    builder = GraphBuilder("ConvLIF")
    x = builder.input("x", "float32", (1, layer.in_channels, *resolution))
    spike = add_float_layer(builder, x, name, layer, dims)
    if not recurrent:
        builder.output(spike, "float32", shape)
    generator = torch.Generator().manual_seed(seed)
    given = _spikes((1, layer.in_channels, *resolution), generator)
    state = LIFState(_random(shape, generator), _spikes(shape, generator))
    fired, after = layer(given, state)
    inputs = {"x": given, f"mem.{name}": state.mem}
    if recurrent:
        inputs[f"spike.{name}"] = state.spike
    return (
        builder.model([lif_op.spec.function("LIF")], None),
        _numpy(inputs),
        _numpy({f"spike_out.{name}": fired, f"mem_out.{name}": after.mem}),
    )


def integer_vector(
    recurrent: bool, model: SpikingFireNet, resolution: tuple[int, int], seed: int
) -> Vector:
    """An integer ConvLIF (QConv and QLIF), feed-forward or recurrent."""
    name, _ = _pick(model, recurrent)
    spec = quantize(model, QuantOptions())
    layer = next(layer for layer in spec.layers if layer.name == name)
    dims, shape = Dims(resolution, free=False), (1, layer.channels, *resolution)
    builder = GraphBuilder("QConvLIF")
    fan_in = layer.conv.weight.shape[1]
    x = builder.input("x", "float32", (1, fan_in, *resolution))
    spike = add_source_layer(builder, x, layer, dims)
    if not recurrent:
        builder.output(spike, "float32", shape)
    source = builder.model([lif_op.spec.function("LIF")], None)
    generator = torch.Generator().manual_seed(seed)
    given = _spikes((1, fan_in, *resolution), generator).to(torch.uint8)
    mem = (_random(shape, generator) * float(np.median(layer.threshold))).to(torch.int16)
    state = IntegerState(mem, _spikes(shape, generator).to(torch.uint8))
    after = IntegerNetwork(spec).layer_step(layer, given, state)
    inputs = {"x": given, f"mem.{name}": state.mem}
    if recurrent:
        inputs[f"spike.{name}"] = state.spike
    return (
        lower(source, fused=False),
        _numpy(inputs),
        _numpy({f"spike_out.{name}": after.spike, f"mem_out.{name}": after.mem}),
    )


def _numpy(tensors: dict[str, torch.Tensor]) -> Arrays:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def vectors() -> dict[str, Callable[[SpikingFireNet, tuple[int, int], int], Vector]]:
    """Every case by its folder's name."""
    return {
        "lif": lif_vector,
        "conv_lif": partial(conv_lif_vector, False),
        "conv_lif_rec": partial(conv_lif_vector, True),
        "conv_lif_int8": partial(integer_vector, False),
        "conv_lif_rec_int8": partial(integer_vector, True),
    }


def write_vectors(
    model: SpikingFireNet, folder: Path, resolution: tuple[int, int], seed: int
) -> list[Path]:
    """Write every case under a folder; returns the cases' folders."""
    written = []
    for case, build in vectors().items():
        network, inputs, outputs = build(model, resolution, seed)
        write_model(network, folder / case / "network.onnx")
        write_arrays(inputs, folder / case / "inputs.npz")
        write_arrays(outputs, folder / case / "outputs.npz")
        written.append(folder / case)
    return written


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m export.layer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m export.layer --model LIFFireNet --untrained --out vectors",
    )
    add_network_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("vectors"), help="folder (vectors)")
    parser.add_argument("--resolution", type=int, nargs=2, metavar=("H", "W"))
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args(argv)
    resolution = positive_pair(arguments.resolution, (16, 20))
    model = load_network(arguments)
    written = write_vectors(model, arguments.out, resolution, arguments.seed)
    if arguments.json:
        print(json.dumps([str(path) for path in written]))
    else:
        for path in written:
            print(f"{path}: network.onnx, inputs.npz, outputs.npz")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
