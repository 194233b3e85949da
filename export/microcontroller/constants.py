"""The constants of a network as arrays in C: ``net_weights.h``, and their bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from export.microcontroller.factors import integer_factor
from export.microcontroller.network import Convolution, Network, SpikingLayer
from export.microcontroller.packing import Packing, packing_of

_LINE = 96
_FACTOR_BYTES = 12
_TOP = """\
/* Constants of the network, as they stand in the artifact. Weights are in the order
 * [row of the kernel][column][input channel][output channel]. */
#ifndef NET_WEIGHTS_H
#define NET_WEIGHTS_H

#include <stdint.h>

#include "net_kernels.h"
"""


def array_text(
    kind: str,
    name: str,
    values: npt.NDArray[np.integer],
    note: str = "",
    *,
    hexadecimal: bool = False,
) -> str:
    """A constant array in C, with lines of at most 96 characters."""
    lines, line = [], "   "
    for value in values.reshape(-1).tolist():
        item = f" 0x{value:08x}u," if hexadecimal else f" {value},"
        if len(line) + len(item) > _LINE:
            lines.append(line)
            line = "   "
        line += item
    lines.append(line)
    head = f"/* {note} */\n" if note else ""
    body = "\n".join(lines)
    return f"{head}static const {kind} {name}[{values.size}] = {{\n{body}\n}};\n"


def weights_header(network: Network) -> str:
    """``net_weights.h``: every constant of the layers and of the flow head's sums."""
    blocks = [_TOP]
    for layer in network.layers:
        blocks.extend(_layer_arrays(layer, packing_of(network, layer)))
    head = network.head
    blocks.append(_weights("pred_weight", head.convolution, "flow head", None))
    blocks.append(array_text("int32_t", "pred_bias", head.bias))
    blocks.append("#endif\n")
    return "\n".join(blocks)


def constant_bytes(network: Network) -> int:
    """Bytes of what :func:`weights_header` writes."""
    total = network.head.convolution.weight.size + 4 * network.head.bias.size
    for layer in network.layers:
        packing = packing_of(network, layer)
        total += 4 * _biases(layer, packing) + 4 * layer.channels
        total += _weight_bytes(layer.convolution, packing)
        if layer.recurrent is not None:
            total += _weight_bytes(layer.recurrent, packing)
        if layer.multiplier is not None:
            total += _FACTOR_BYTES * layer.channels
    return int(total)


def _taps(convolution: Convolution) -> npt.NDArray[np.int8]:
    """Weights as the kernels read them: [k * k * Cin, Cout]."""
    taps = convolution.weight.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(taps).reshape(-1, taps.shape[3])


def _weight_bytes(convolution: Convolution, packing: Packing | None) -> int:
    taps, channels = _taps(convolution).shape
    return taps * (channels if packing is None else 4 * packing.words(channels))


def _weights(name: str, convolution: Convolution, what: str, packing: Packing | None) -> str:
    k, taps = convolution.kernel, _taps(convolution)
    shape = f"[{k}][{k}][{convolution.inputs}][{taps.shape[1]}]"
    if packing is None:
        return array_text("int8_t", name, taps, f"{what}: {shape}")
    note = f"{what}: {shape}, {2 * packing.parts} to a word, each plus {packing.offset}"
    return array_text("uint32_t", name, packing.pack(taps), note, hexadecimal=True)


def _biases(layer: SpikingLayer, packing: Packing | None) -> int:
    """Number of biases in C, with those that fill the last word of weights."""
    return layer.channels if packing is None else packing.filled(layer.channels)


def _layer_arrays(layer: SpikingLayer, packing: Packing | None) -> list[str]:
    name = layer.identifier
    arrays = [_weights(f"{name}_weight", layer.convolution, name, packing)]
    if layer.recurrent is not None:
        what = f"{name}, of its own spikes"
        arrays.append(_weights(f"{name}_weight_rec", layer.recurrent, what, packing))
    bias = np.pad(layer.bias, (0, _biases(layer, packing) - layer.channels))
    arrays.append(array_text("int32_t", f"{name}_bias", bias))
    arrays.append(array_text("int16_t", f"{name}_decay", layer.decay, "in 256ths"))
    unit = "in units of the membrane"
    arrays.append(array_text("int16_t", f"{name}_threshold", layer.threshold, unit))
    if layer.multiplier is not None:
        factors = [integer_factor(value) for value in layer.multiplier]
        rows = "\n".join(f"    {{{f.mantissa}u, {f.largest}u, {f.shift}}}," for f in factors)
        arrays.append(
            "/* from sums to currents of 8 bits */\n"
            f"static const net_factor {name}_factor[{len(factors)}] = {{\n{rows}\n}};\n"
        )
    return arrays
