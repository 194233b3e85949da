"""Random quantized graphs for hypothesis: a few steps over a pool of dequantized tensors.

Every choice is a small integer that shrinks toward the simplest step; the numbers in weights come
from one seed. Weights stay within -63..63, so that 8-bit products summed in pairs fit in 16 bits:
on machines without 8-bit dot products ONNX Runtime's kernels saturate beyond that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st
from qdq_graphs import Graph


@dataclass(frozen=True)
class Tensor:
    """A dequantized tensor: name, shape and grid."""

    name: str
    shape: tuple[int, ...]
    scale: float
    zero: int
    dtype: type


@dataclass
class Network:
    """A model, an input for it, and its tensors."""

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]


STEPS = (
    *["conv"] * 4,
    "relu",
    "max_pool",
    "arithmetic",
    "concat",
    "requantize",
    "pad",
    "slice",
    "resize",
    "split",
    "scaled",
    "average",
    "function",
)
"""Methods of the builder; most of what can go wrong does so at convolutions."""


class Builder:
    """Draws one network. exact: scales are powers of two and means divide by powers of two."""

    def __init__(self, draw: st.DrawFn, exact: bool) -> None:
        self.draw, self.exact, self.graph = draw, exact, Graph()
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.pool: list[Tensor] = []

    def chance(self) -> bool:
        return self.draw(st.booleans())

    def pick(self, *options):
        return self.draw(st.sampled_from(options))

    def scale(self, around: float = 1.0) -> float:
        if self.exact:
            return float(2.0 ** np.rint(np.log2(around) + self.pick(0, 1, -1)))
        # Scales of 2^-k appear among arbitrary ones, because they make ties.
        power = 2.0 ** np.rint(np.log2(around))
        return float(np.float32(self.pick(power, around * 0.7131, around * 1.3373)))

    def grid(self, around: float = 1.0) -> tuple[float, int, type]:
        dtype = self.pick(np.uint8, np.int8)
        zero = self.pick(0, 128, 77) if dtype is np.uint8 else self.pick(0, -128, 5)
        return self.scale(around), zero, dtype

    def quantized(self, name: str, shape: tuple[int, ...], around: float) -> Tensor:
        scale, zero, dtype = self.grid(around)
        dq = self.graph.qdq(name, scale, zero, dtype)
        return Tensor(dq, shape, scale, zero, dtype)

    def any(self, rank: int = 4) -> Tensor:
        return self.pick(*[t for t in self.pool if len(t.shape) == rank])

    def moved(self, tensor: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
        return Tensor(name, shape, tensor.scale, tensor.zero, tensor.dtype)

    # Steps.

    def weights(self, shape: tuple[int, ...], x: Tensor, axis: int) -> tuple[str, np.ndarray]:
        array = self.rng.integers(-63, 64, shape).astype(np.int8)
        scale = np.asarray(np.float32(self.scale(2.0**-5)))
        if self.chance():
            steps = self.rng.integers(-1, 2, shape[axis])
            factors = 2.0**steps if self.exact else 1.0 + 0.21 * steps
            scale = (scale * factors).astype(np.float32)
        name = self.graph.weight(array, scale, axis)
        return name, np.asarray(np.float32(x.scale) * scale)

    def conv(self) -> Tensor:
        x = self.any()
        n, c, h, w = x.shape
        kernel = self.pick(1, 3)
        group = self.pick(1, c, 1)
        dilation, stride, pad = self.pick(1, 2), self.pick(1, 2), self.pick(0, 1)
        reach = (kernel - 1) * dilation
        pads = [pad, pad + 1, pad, 0] if self.chance() else [pad] * 4
        if min(h + pads[0] + pads[2], w + pads[1] + pads[3]) <= reach:
            dilation, pads, reach = 1, [1] * 4, kernel - 1
        outputs = c * self.pick(1, 2) if group > 1 else self.pick(4, 3)
        weight, scale = self.weights((outputs, c // group, kernel, kernel), x, 0)
        inputs = [x.name, weight]
        if self.chance():
            inputs.append(self.graph.bias(self.rng.integers(-999, 999, outputs), scale))
        out = self.graph.op(
            "Conv", *inputs, group=group, dilations=[dilation] * 2, strides=[stride] * 2, pads=pads
        )
        spatial = [
            (size + pads[i] + pads[i + 2] - reach - 1) // stride + 1
            for i, size in enumerate((h, w))
        ]
        return self.finish(out, (n, outputs, *spatial), float(np.mean(scale)) * 64)

    def finish(self, name: str, shape: tuple[int, ...], around: float) -> Tensor:
        """What stands between an accumulator and its quantizer."""
        ending = self.pick("", "relu", "clip", "pool", "transpose")
        if ending == "relu":
            name = self.graph.op("Relu", name)
        elif ending == "clip":
            bounds = [self.graph.const(np.float32(b)) for b in (-around * 5, around * 33)]
            name = self.graph.op("Clip", name, *bounds)
        elif ending == "pool" and len(shape) == 4 and min(shape[2:]) > 1:
            name = self.graph.op("MaxPool", name, kernel_shape=[2, 2], strides=[2, 2])
            shape = (*shape[:2], shape[2] // 2, shape[3] // 2)
        elif ending == "transpose" and len(shape) == 4:
            name = self.graph.op("Transpose", name, perm=[0, 2, 3, 1])
            shape = (shape[0], shape[2], shape[3], shape[1])
        return self.quantized(name, shape, around)

    def max_pool(self) -> Tensor:
        x = self.any()
        out = self.graph.op("MaxPool", x.name, kernel_shape=[3, 3], pads=[1] * 4)
        return self.moved(x, out, x.shape)

    def relu(self) -> Tensor:
        x = self.any()
        return self.moved(x, self.graph.op("Relu", x.name), x.shape)

    def pad(self) -> Tensor:
        x = self.any()
        pads = self.graph.const(np.array([0, 0, 1, 0, 0, self.pick(0, 1), 0, 1]))
        out = self.graph.op("Pad", x.name, pads, mode=self.pick("constant", "edge"))
        more = int(self.graph.inits[pads][5])
        return self.moved(x, out, (x.shape[0], x.shape[1] + more, x.shape[2] + 1, x.shape[3] + 1))

    def slice(self) -> Tensor:
        x = self.any()
        axis = self.pick(*[a for a in range(1, 4) if x.shape[a] > 1] or [0])
        bounds = [self.graph.const(np.array([v])) for v in (-1, 2**31, axis)]
        out = self.graph.op("Slice", x.name, *bounds)
        return self.moved(x, out, tuple(1 if i == axis else d for i, d in enumerate(x.shape)))

    def resize(self) -> Tensor:
        x = self.any()
        scales = self.graph.const(np.array([1, 1, 2, 1], np.float32))
        out = self.graph.op("Resize", x.name, "", scales, mode="nearest")
        return self.moved(x, out, (*x.shape[:2], x.shape[2] * 2, x.shape[3]))

    def split(self) -> Tensor:
        x = self.any()
        if x.shape[1] < 2:
            return x
        first = x.shape[1] // 2
        sizes = self.graph.const(np.array([first, x.shape[1] - first]))
        parts = self.graph.op("Split", x.name, sizes, outputs=2, axis=1)
        self.pool.append(self.moved(x, parts[1], (x.shape[0], x.shape[1] - first, *x.shape[2:])))
        return self.moved(x, parts[0], (x.shape[0], first, *x.shape[2:]))

    def requantize(self) -> Tensor:
        x = self.any()
        return self.quantized(x.name, x.shape, x.scale * 2)

    def share(self, x: Tensor) -> Tensor:
        """The tensor again on the grid of another one of its shape, if there is one."""
        others = [t for t in self.pool if t.shape == x.shape]
        other = self.pick(*others)
        name = self.graph.qdq(x.name, other.scale, other.zero, other.dtype)
        return Tensor(name, x.shape, other.scale, other.zero, other.dtype)

    def arithmetic(self) -> Tensor:
        x = self.any()
        other = self.pick(*[t for t in self.pool if t.shape == x.shape])
        if self.chance():
            other = self.share(x)
        op_type = self.pick("Add", "Sub", "Mul")
        out = self.graph.op(op_type, x.name, other.name)
        around = x.scale + other.scale if op_type != "Mul" else x.scale * other.scale * 64
        return self.finish(out, x.shape, around)

    def concat(self) -> Tensor:
        x = self.any()
        fits = [t for t in self.pool if len(t.shape) == 4 and t.shape[2:] == x.shape[2:]]
        other = self.pick(*fits)
        out = self.graph.op("Concat", x.name, other.name, axis=1)
        shape = (x.shape[0], x.shape[1] + other.shape[1], *x.shape[2:])
        if (x.scale, x.zero, x.dtype) == (other.scale, other.zero, other.dtype):
            return self.moved(x, out, shape)
        return self.quantized(out, shape, max(x.scale, other.scale))

    def scaled(self) -> Tensor:
        x = self.any()
        factor = self.graph.const(np.float32(0.5))
        out = self.graph.op(self.pick("Mul", "Div"), x.name, factor)
        return self.quantized(out, x.shape, x.scale)

    def average(self) -> Tensor:
        x = self.any()
        n, c, h, w = x.shape
        kind = self.pick("GlobalAveragePool", "AveragePool", "ReduceMean")
        if kind == "AveragePool":
            if min(h, w) < 2:
                return x
            out = self.graph.op(kind, x.name, kernel_shape=[2, 2], strides=[1, 1])
            return self.finish(out, (n, c, h - 1, w - 1), x.scale)
        if self.exact and (h * w) & (h * w - 1):
            return x
        if kind == "ReduceMean":
            axes = self.graph.const(np.array([3, 2]))
            out = self.graph.op(kind, x.name, axes, keepdims=1)
        else:
            out = self.graph.op(kind, x.name)
        return self.quantized(out, (n, c, 1, 1), x.scale)

    def function(self) -> Tensor:
        """x * relu6(x + 3) / 6 of an 8-bit tensor; sums alone where results have to be exact."""
        x = self.any()
        three, zero, six = (self.graph.const(np.float32(v)) for v in (3, 0, 6))
        out = self.graph.op("Clip", self.graph.op("Add", x.name, three), zero, six)
        if not self.exact:
            out = self.graph.op("Div", self.graph.op("Mul", x.name, out), six)
        return self.quantized(out, x.shape, x.scale)

    def head(self, x: Tensor) -> str:
        """Flatten and a matrix product; its result stays float, or is quantized."""
        features = int(np.prod(x.shape[1:]))
        flat = self.graph.op("Flatten", x.name)
        if self.chance():
            weight, scale = self.weights((5, features), x, 0)
            bias = self.graph.bias(self.rng.integers(-999, 999, 5), scale)
            return self.graph.op("Gemm", flat, weight, bias, transB=1)
        weight, _ = self.weights((features, 5), x, 1)
        return self.graph.op("MatMul", flat, weight)

    def network(self) -> Network:
        shape = (self.pick(1, 2), self.pick(2, 3), self.pick(4, 5), self.pick(4, 6))
        name = self.graph.input("x", np.float32, shape)
        self.pool.append(self.quantized(name, shape, 2.0**-4))
        for step in self.draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=5)):
            self.pool.append(getattr(self, step)())
        last = self.pool[-1]
        outputs = {self.graph.op("Identity", last.name): np.float32}
        if self.chance() and int(np.prod(last.shape[1:])) <= 300:
            result = self.head(last)
            outputs[result] = np.float32
            outputs[self.graph.q(result, self.scale(0.5), 128)] = np.uint8
        outputs[self.graph.q(last.name, last.scale, last.zero, last.dtype)] = last.dtype
        x = self.rng.normal(0, 4, shape).astype(np.float32)
        return Network(self.graph.model(outputs), {"x": x})


@st.composite
def networks(draw: st.DrawFn, exact: bool) -> Network:
    """A random quantized network."""
    return Builder(draw, exact).network()
