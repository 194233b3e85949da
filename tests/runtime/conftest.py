"""Small artifacts built from the ops alone: two spiking layers, one recurrent, and a head."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lif_op
import lif_op.spec
from runtime.metadata import METADATA_KEY, Artifact, Layer, State

# The helper modules of this folder, whatever the import mode of pytest.
sys.path.insert(0, str(Path(__file__).parent))

CHANNELS = 4
RESOLUTION = (12, 16)


@dataclass(frozen=True)
class NetOptions:
    """What varies between the small networks. A resolution of None leaves the size free."""

    kind: str = "int8"
    resolution: tuple[int, int] | None = RESOLUTION
    seed: int = 0
    recurrent: bool = True
    mem: str = "int16"
    strict: bool = False


class Net:
    """Collects the small network's graph."""

    def __init__(self, options: NetOptions) -> None:
        self.options = options
        self.integer = options.kind == "int8"
        self.rng = np.random.default_rng(options.seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.states: list[State] = []
        self.layers: list[Layer] = []

    def shape(self, channels: int) -> tuple[int | str, ...]:
        size = self.options.resolution
        return ("N", channels, "H", "W") if size is None else (1, channels, *size)

    def const(self, name: str, array: np.ndarray[Any, Any]) -> str:
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def value(self, name: str, kind: str, channels: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), self.shape(channels)
        )

    def conv(self, x: str, name: str, cin: int, cout: int, kernel: int = 3) -> str:
        pads = [kernel // 2] * 4
        shape = (cout, cin, kernel, kernel)
        if self.integer:
            weight = self.const(f"{name}.weight", self.rng.integers(-40, 63, shape).astype(np.int8))
            bias = self.const(f"{name}.bias", self.rng.integers(-5, 6, cout).astype(np.int32))
            self.nodes.append(
                helper.make_node(
                    "QConv",
                    [x, weight, bias],
                    [f"{name}.acc"],
                    f"{name}.conv",
                    domain="snn",
                    strides=[1, 1],
                    pads=pads,
                )
            )
            return f"{name}.acc"
        weight = self.const(f"{name}.weight", self.rng.normal(0.1, 0.4, shape).astype(np.float32))
        self.nodes.append(
            helper.make_node("Conv", [x, weight], [f"{name}.acc"], f"{name}.conv", pads=pads)
        )
        return f"{name}.acc"

    def state(self, role: str, layer: str, kind: str) -> str:
        name, out = f"{role}.{layer}", f"{role}_out.{layer}"
        self.inputs.append(self.value(name, kind, CHANNELS))
        self.outputs.append(self.value(out, kind, CHANNELS))
        self.states.append(State(name, out, role, "NCHW", kind, self.shape(CHANNELS), 0))
        return name

    def layer(self, x: str, name: str, cin: int, recurrent: bool) -> str:
        current = self.conv(x, name, cin, CHANNELS)
        if recurrent:
            previous = self.state("spike", name, "uint8" if self.integer else "float32")
            rec = self.conv(previous, f"{name}.rec", CHANNELS, CHANNELS)
            self.nodes.append(helper.make_node("Add", [current, rec], [f"{name}.sum"]))
            current = f"{name}.sum"
        mem_type = self.options.mem if self.integer else "float32"
        mem = self.state("mem", name, mem_type)
        if self.integer:
            decay = self.rng.integers(100, 250, CHANNELS).astype(np.int32)
            threshold = self.rng.integers(20, 120, CHANNELS).astype(np.int32)
            extra: dict[str, Any] = {"frac_bits": 0}
        else:
            decay = self.rng.uniform(0.3, 0.9, CHANNELS).astype(np.float32)
            threshold = self.rng.uniform(0.5, 1.5, CHANNELS).astype(np.float32)
            extra = {}
        self.nodes.append(
            helper.make_node(
                "QLIF" if self.integer else "LIF",
                [
                    current,
                    mem,
                    self.const(f"{name}.decay", decay),
                    self.const(f"{name}.threshold", threshold),
                ],
                [f"spike_out.{name}", f"mem_out.{name}"],
                f"{name}.neuron",
                domain="snn",
                reset="zero",
                **extra,
            )
        )
        layer = Layer(name, recurrent, CHANNELS, 3, 1, "zero")
        if self.integer:
            layer = replace(
                layer,
                frac_bits=0,
                mem_bits=int(self.options.mem[3:]),
                weight_bits=7,
                decay=tuple(map(int, decay)),
                threshold=tuple(map(int, threshold)),
                weight_scale=(0.01,) * CHANNELS,
            )
        self.layers.append(layer)
        return f"spike_out.{name}"

    def head(self, x: str) -> None:
        acc = self.conv(x, "pred", CHANNELS, 2, 1)
        if self.integer:
            self.nodes[-1].output[0] = acc = "flow_acc"
            self.nodes.append(helper.make_node("Cast", [acc], ["pred.real"], to=TensorProto.FLOAT))
            scale = self.const("pred.scale", np.float32(0.005).reshape(1, 1, 1, 1))
            self.nodes.append(helper.make_node("Mul", ["pred.real", scale], ["pred.scaled"]))
            self.nodes.append(helper.make_node("Tanh", ["pred.scaled"], ["flow"]))
            self.outputs.insert(0, self.value("flow_acc", "int32", 2))
        else:
            self.nodes.append(helper.make_node("Tanh", [acc], ["flow"]))
        self.outputs.insert(0, self.value("flow", "float32", 2))

    def artifact(self) -> Artifact:
        size = self.options.resolution
        return Artifact(
            model="TwoLayers",
            kind=self.options.kind,
            encoding="cnt",
            num_bins=2,
            resolution=size or RESOLUTION,
            spatial_free=size is None,
            flow_scaling=128.0,
            states=tuple(self.states),
            layers=tuple(self.layers),
            version="0.1.0",
        )

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, self.initializers)
        names = ("QConv", "QLIF") if self.integer else ("LIF",)
        model = helper.make_model(
            graph,
            ir_version=lif_op.spec.IR_VERSION,
            functions=[
                lif_op.spec.function(name, strict_conv=self.options.strict) for name in names
            ],
            opset_imports=[
                helper.make_opsetid("", lif_op.spec.OPSET),
                helper.make_opsetid("snn", 1),
            ],
        )
        helper.set_model_props(model, {METADATA_KEY: self.artifact().to_json()})
        return model


def build(options: NetOptions) -> onnx.ModelProto:
    net = Net(options)
    net.inputs.append(net.value("events", "uint8" if net.integer else "float32", 2))
    x = net.layer("events", "head", 2, recurrent=False)
    x = net.layer(x, "G1", CHANNELS, recurrent=options.recurrent)
    net.head(x)
    return net.model()


def set_metadata(model: onnx.ModelProto, text: str) -> None:
    del model.metadata_props[:]
    helper.set_model_props(model, {METADATA_KEY: text})


Make = Callable[..., Path]


@pytest.fixture
def make_model() -> Callable[..., onnx.ModelProto]:
    """make_model(kind=..., resolution=..., ...) -> ModelProto"""
    return lambda **options: build(NetOptions(**options))


@pytest.fixture
def make_file(tmp_path: Path) -> Make:
    """make_file(name, edit=None, **options) -> path; ``edit(model)`` may spoil the model."""

    def make(
        name: str = "model.int8.onnx",
        edit: Callable[[onnx.ModelProto], object] | None = None,
        **options: Any,
    ) -> Path:
        model = build(NetOptions(**options))
        if edit is not None:
            edit(model)
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return make


@pytest.fixture
def counts() -> Callable[..., list[np.ndarray[Any, Any]]]:
    """counts(steps, dtype, resolution) -> random event tensors [1, 2, H, W]"""

    def make(
        steps: int,
        dtype: Any = np.uint8,
        resolution: tuple[int, int] = RESOLUTION,
        batch: int = 1,
        rate: float = 0.3,
    ) -> list[np.ndarray[Any, Any]]:
        rng = np.random.default_rng(1)
        shape = (batch, 2, *resolution)
        return [rng.poisson(rate, shape).astype(dtype) for _ in range(steps)]

    return make


def has_library() -> bool:
    try:
        lif_op.library_path()
    except lif_op.LibraryError:
        return False
    return True


@pytest.fixture
def library() -> None:
    """Skips the test where the op library was not built."""
    if not has_library():
        pytest.skip("the op library is not built")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording at the small networks' resolution: 6 flow intervals of about 120 events."""
    from random_recordings import write_recording

    return write_recording(tmp_path / "recording.h5")
