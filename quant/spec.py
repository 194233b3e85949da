"""The integers of a quantized network, and the one place where they are derived.

Everything downstream (PyTorch emulation, ONNX graphs, later the C bundle) reads a
:class:`NetworkSpec`; nobody recomputes a threshold or a decay. The derivation runs in float64:

* ``d = rint(256 * beta)``, clipped to 0..256;
* ``theta_q = min(floor(x * (1 + 2^-22)), hi)`` with ``x = theta * 2^f / s_w`` (the slack absorbs
  the float32 storage of a threshold that lies on the grid);
* ``b_q = rint(bias / s_w)``.

A spike is 0 or 1 whatever the unit of its membrane, so the membrane lives in the accumulator's
unit ``s_w[c] / 2^f`` and no scale has to be applied anywhere before the flow head.

With current mode ``uint8`` the accumulator is requantized to 8 bits before the neuron, with one
scale ``s_y`` per layer and zero point 128::

    q    = clip(rint(float32(acc) * m[c]) + 128, 0, 255)      m = float32(s_w) / float32(s_y)
    acc' = q - 128

and the neuron runs on ``acc'``: its membrane's unit is ``s_y / 2^f``, the same for all channels,
and the threshold is derived with ``s_y`` in place of ``s_w``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from quant.errors import QuantError

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

DECAY_UNIT = 256
EXACT_FLOAT32 = 2**24
THRESHOLD_SLACK = 2.0**-22
MEM_BITS = (8, 16)
CURRENTS = ("accumulator", "uint8")
CURRENT_ZERO_POINT = 128
RESETS = ("zero", "subtract", "none")
NEURONS = ("integer", "float")


@dataclass(frozen=True)
class ConvSpec:
    """An integer convolution: weights int8 [Cout, Cin, k, k], bias int32 [Cout].

    weight_scale: float64 [Cout], the real value of one unit of the accumulator per channel.
    x_max: largest input value: 1 for spikes, 127 for counts.
    """

    weight: Int8
    bias: Int32
    weight_scale: Float64
    stride: int
    x_max: int

    @property
    def padding(self) -> int:
        """Zero padding on each side, half the kernel."""
        return self.weight.shape[2] // 2

    def largest_sums(self) -> Int64:
        """Largest magnitude an accumulator can reach, int64 [Cout]."""
        weights = np.abs(self.weight.astype(np.int64)).sum(axis=(1, 2, 3))
        return self.x_max * weights + np.abs(self.bias.astype(np.int64))

    def largest_sum(self) -> int:
        """The largest of :meth:`largest_sums`."""
        return int(self.largest_sums().max())


@dataclass(frozen=True)
class LayerSpec:
    """One integer ConvLIF layer.

    conv: feed-forward convolution, holding the layer's bias. weight_rec: int8 [C, C, k, k] on the
    layer's own previous spikes, with the same scale, or None. decay: int32 [C] in 256ths.
    threshold: int32 [C] in membrane units. frac_bits: fractional bits of the membrane, negative
    for coarse membranes. mem_bits: 8 or 16. reset: "zero", "subtract" or "none". current:
    "accumulator", or "uint8" where the accumulator is requantized before the neuron.
    current_scale: s_y, the real value of one unit of an uint8 current, a float32 value; None in
    mode "accumulator". weight_bits: of the layer's weights.
    """

    name: str
    conv: ConvSpec
    weight_rec: Int8 | None
    decay: Int32
    threshold: Int32
    frac_bits: int
    mem_bits: int
    reset: str
    current: str = "accumulator"
    current_scale: float | None = None
    weight_bits: int = 8

    @property
    def current_unit(self) -> Float64:
        """Real value of one unit of what the neuron receives, float64 [C]: s_w, or s_y."""
        if self.current_scale is None:
            return self.conv.weight_scale
        return np.full(self.channels, self.current_scale)

    @property
    def membrane_unit(self) -> Float64:
        """Real value of one unit of membrane and threshold, float64 [C]."""
        return self.current_unit / 2.0**self.frac_bits

    @property
    def real_beta(self) -> Float32:
        """Decay as a real number, d / 256, float32 [C] (exact)."""
        return (self.decay / DECAY_UNIT).astype(np.float32)

    @property
    def real_threshold(self) -> Float32:
        """Threshold in real units, float32 [C], from which :func:`derive_threshold` gives
        ``threshold`` again.
        """
        return real_threshold(self.threshold, self.membrane_unit)

    @property
    def multiplier(self) -> Float32:
        """m of the uint8 requantization, float32 [C].

        Raises:
            QuantError: current mode "accumulator".
        """
        if self.current_scale is None:
            raise QuantError(f"layer {self.name!r} does not requantize its current")
        return derive_multiplier(self.conv.weight_scale, self.current_scale)

    @property
    def channels(self) -> int:
        """Number of neurons per pixel."""
        return int(self.conv.weight.shape[0])

    def largest_sum(self) -> int:
        """Largest magnitude of feed-forward plus recurrent accumulator, over all channels."""
        sums = self.conv.largest_sums()
        if self.weight_rec is not None:
            sums = sums + np.abs(self.weight_rec.astype(np.int64)).sum(axis=(1, 2, 3))
        return int(sums.max())


@dataclass(frozen=True)
class NetworkSpec:
    """All integers of a network.

    weight_bits: of the layer, or the flow head, that has most. head: the flow head's convolution;
    flow = tanh(acc * weight_scale). neuron: "integer", or "float" where only the convolutions
    compute in integers: neurons then take ``float32(acc) * float32(s_w)`` with ``real_beta`` and
    ``real_threshold``, membranes are float32, and mem_bits and frac_bits of the layers say only on
    which grid their thresholds are written.
    """

    model: str
    encoding: str
    num_bins: int
    flow_scaling: float
    weight_bits: int
    layers: tuple[LayerSpec, ...]
    head: ConvSpec
    checkpoint_sha256: str = field(default="")
    neuron: str = "integer"

    def exact_in_float32(self) -> bool:
        """Whether every convolution sum is an integer that float32 holds exactly."""
        sums = [layer.largest_sum() for layer in self.layers] + [self.head.largest_sum()]
        return max(sums) <= EXACT_FLOAT32


def membrane_limits(mem_bits: int) -> tuple[int, int]:
    """(lo, hi) of a membrane of 8 or 16 bits."""
    if mem_bits not in MEM_BITS:
        raise QuantError(f"membrane bits must be 8 or 16, got {mem_bits}")
    return -(2 ** (mem_bits - 1)), 2 ** (mem_bits - 1) - 1


def weight_limit(weight_bits: int) -> int:
    """Largest magnitude of a weight of 2 to 8 bits: symmetric, 63 for 7 bits."""
    if not 2 <= weight_bits <= 8:
        raise QuantError(f"weight bits must be 2 to 8, got {weight_bits}")
    return int(2 ** (weight_bits - 1)) - 1


def derive_decay(beta: Float64) -> Int32:
    """``rint(256 * beta)`` clipped to 0..256; beta float64 [C]."""
    return np.clip(np.rint(DECAY_UNIT * beta), 0, DECAY_UNIT).astype(np.int32)


def derive_threshold(
    threshold: Float64, current_unit: Float64, frac_bits: int, mem_bits: int
) -> Int32:
    """Threshold in membrane units, int32 [C]; see the module's docstring.

    current_unit is s_w [C], or s_y for uint8 currents.

    Firing is ``u > theta_q`` on integers, which equals ``u > x`` for the real threshold x, so the
    floor loses nothing.

    Raises:
        QuantError: a threshold that is not positive and finite.
    """
    if not bool((np.isfinite(threshold) & (threshold > 0)).all()):
        raise QuantError("thresholds must be positive and finite")
    _, hi = membrane_limits(mem_bits)
    x = threshold * 2.0**frac_bits / current_unit
    return np.minimum(np.floor(x * (1 + THRESHOLD_SLACK)), hi).astype(np.int32)


def real_threshold(threshold: Int32, membrane_unit: Float64) -> Float32:
    """Integer thresholds [C] in real units, float32 [C].

    A float neuron's threshold is positive, so 0 is written as half a unit of the membrane: no
    membrane on the grid lies between the two.
    """
    units = np.where(threshold > 0, threshold.astype(np.float64), 0.5)
    return (units * membrane_unit).astype(np.float32)


def threshold_frac_bits(threshold: Float64, current_unit: Float64) -> int:
    """Fractional bits of the finest 16-bit grid that holds every threshold of a float neuron.

    Membranes are not on the grid, so fine costs nothing. At least 0, which integer neurons have:
    a channel whose unit is tiny does not coarsen the others.

    Args:
        threshold: float64 [C], positive, real units.
        current_unit: float64 [C], s_w.
    """
    _, hi = membrane_limits(16)
    finest = math.floor(math.log2(hi / float((threshold / current_unit).max())))
    return min(max(finest, 0), 14)


def derive_bias(bias: Float64, weight_scale: Float64) -> Int32:
    """``rint(bias / s_w)``, int32 [C].

    Raises:
        QuantError: a bias that does not fit int32.
    """
    scaled = np.rint(bias / weight_scale)
    if not bool((np.abs(scaled) < 2**31).all()):
        raise QuantError("a bias does not fit 32 bits at its channel's weight scale")
    return scaled.astype(np.int32)


def check_frac_bits(frac_bits: int, mem_bits: int) -> None:
    """Raise QuantError unless the fractional bits leave the membrane at least one whole bit."""
    if not -15 <= frac_bits <= mem_bits - 2:
        raise QuantError(f"fractional bits must be -15 to {mem_bits - 2}, got {frac_bits}")


def derive_multiplier(weight_scale: Float64, current_scale: float) -> Float32:
    """``float32(s_w) / float32(s_y)`` in float32, [C]: as ONNX Runtime's QLinearConv has it."""
    return weight_scale.astype(np.float32) / np.float32(current_scale)
