"""The C code of a network: ``net.h``, ``net.c`` and ``net_head.c``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from export.microcontroller.constants import array_text
from export.microcontroller.flow_head import FixedHead
from export.microcontroller.memory import (
    Sizes,
    element_bytes,
    state_arrays,
    word_type,
    zero_rows,
)
from export.microcontroller.network import Convolution, Network, SpikingLayer
from export.microcontroller.packing import Packing, packing_of
from export.microcontroller.schedule import EVENTS, PRED, Part, Rows, Schedule, Stage, words


def template(name: str) -> str:
    """The text of a file that is the same in every bundle."""
    folder = resources.files("export.microcontroller") / "templates"
    return (folder / f"{name}.in").read_text(encoding="utf-8")


def comment_text(text: str) -> str:
    """Text of an artifact as it may stand in a comment of C."""
    return re.sub(r"[^A-Za-z0-9 ._+-]", "_", text)[:80]


def _define(name: str, value: object, note: str = "") -> str:
    return f"#define {name} {value}" + (f" /* {note} */" if note else "")


def header(network: Network, size: Sizes, fixed: FixedHead | None) -> str:
    """``net.h``: what an application needs."""
    artifact = network.artifact
    height, width = network.resolution
    layers = "".join(
        f" *   {layer.identifier}: {layer.channels} channels, membranes of {layer.mem_bits} bits"
        f"{', recurrent' if layer.recurrent is not None else ''}\n"
        for layer in network.layers
    )
    if fixed is None:
        kind = "float"
        unit = f"times {artifact.flow_scaling:g}: pixels per window"
        defines = []
        flow = "float32 in (-1, 1), tanh of the accumulator times its scale"
    else:
        kind = "int16_t"
        unit = f"divided by 2^{fixed.frac_bits}, times {artifact.flow_scaling:g}: pixels per window"
        flow = f"fixed point {fixed.format}; error of a value at most {fixed.error:.3g}"
        defines = [_define("NET_FLOW_FRAC_BITS", fixed.frac_bits, "flow = value / 2^this")]
    text = template("net.h")
    replaced = {
        "model": comment_text(artifact.model),
        "checkpoint": comment_text(artifact.checkpoint_sha256[:16] or "untrained"),
        "layers": layers.rstrip("\n"),
        "flow": flow,
        "unit": unit,
        "flow_type": kind,
        "states": str(len(state_arrays(network))),
        "height": str(height),
        "width": str(width),
        "bins": str(network.bins),
        "arena": str(size.arena),
        "state_bytes": str(size.state),
        "buffer_bytes": str(size.buffers),
        "constant_bytes": str(size.constants),
        "flow_defines": "".join(f"{line}\n" for line in defines),
    }
    for key, value in replaced.items():
        text = text.replace(f"@{key}@", value)
    return text


def head_source(network: Network, fixed: FixedHead | None) -> str:
    """``net_head.c``: from the flow head's sums to the flow."""
    if fixed is None:
        scales = ", ".join(f"{_float(value)}f" for value in network.head.scale)
        return template("net_head_float.c").replace("@scales@", scales)
    tables = "".join(
        array_text("int16_t", f"flow_{axis}", table)
        for axis, table in zip("xy", fixed.tables, strict=True)
    )
    text = template("net_head_fixed.c")
    for key, value in {
        "tables": tables.rstrip("\n"),
        "shift": str(fixed.shift),
        "half": str((1 << fixed.shift) >> 1),
        "last": str((1 << fixed.shift) - 1),
        "format": fixed.format,
        "error": f"{fixed.error:.3g}",
        "largest": str(network.head.largest_sum()),
    }.items():
        text = text.replace(f"@{key}@", value)
    return text


def _float(value: np.float32) -> str:
    """A float32 in decimal, with the nine digits that name it, and a point."""
    text = f"{float(value):.9g}"
    return text if re.search(r"[.e]", text) else f"{text}.0"


def main_source(network: Network, schedule: Schedule) -> str:
    """``net.c``: the arena, a function per layer, and the step."""
    return _Source(network, schedule).text()


@dataclass(frozen=True)
class _Input:
    """What a convolution reads: a function that gives rows, and their elements."""

    function: str
    kind: str
    channels: int
    counts: bool = False

    @property
    def elements(self) -> int:
        """Elements per pixel."""
        return self.channels if self.counts else words(self.channels)


class _Source:
    def __init__(self, network: Network, schedule: Schedule) -> None:
        self.network = network
        self.schedule = schedule
        self.height, self.width = network.resolution
        self.states = {array.name: array for array in state_arrays(network)}
        self.zero_rows = zero_rows(network, schedule)

    def text(self) -> str:
        blocks = [
            '#include "net.h"\n\n#include <string.h>\n\n#include "net_kernels.h"\n'
            '#include "net_weights.h"\n',
            self.arena(),
            self.zeros(),
        ]
        for part in self.schedule.parts:
            source: _Input | None = self.part_input(part)
            for stage in part.stages:
                blocks.extend(self.rows_functions(stage))
                if stage.layer is not None and source is not None:
                    blocks.append(self.layer_function(stage, stage.layer, source))
                elif stage.name == PRED and source is not None:
                    blocks.append(self.pred_function(source))
                source = self.output(stage)
        blocks.extend(self.part_function(part) for part in self.schedule.parts)
        blocks.append(self.step())
        return "\n".join(blocks)

    # The arena.

    def arena(self) -> str:
        order = sorted(self.states.values(), key=lambda array: -element_bytes(array.kind))
        state = "\n".join(
            f"        {array.kind} {array.name}[{array.rows} * {array.stride}];" for array in order
        )
        members = []
        for rows in self.schedule.rows():
            offset = self.schedule.plan.offsets[rows.name]
            pad = f"uint8_t before[{offset}]; " if offset else ""
            kind = "int32_t" if rows.name == "pred_sums" else f"uint{rows.element_bits}_t"
            members.append(
                f"        struct {{ {pad}{kind} rows[{rows.count} * {rows.width}]; }} {rows.name};"
            )
        buffers = "\n".join(members)
        return (
            "/* All memory of the network. Buffers that never hold values at the same time share\n"
            " * theirs: each begins so many bytes behind the start of the union. */\n"
            "static struct {\n"
            f"    struct {{\n{state}\n    }} state;\n"
            f"    union {{\n{buffers}\n    }} buffers;\n"
            "} arena;\n\n"
            "/* Compiles only if the arena has the size that was planned. */\n"
            "typedef char net_arena_is_as_planned[sizeof arena == NET_ARENA_BYTES ? 1 : -1];\n"
        )

    def zeros(self) -> str:
        return "".join(
            f"static const uint{bits}_t zeros_{bits}[{count}] = {{0}};\n"
            for bits, count in sorted(self.zero_rows.items())
        )

    # Rows.

    def rows_functions(self, stage: Stage) -> list[str]:
        """Functions that find a row: of a ring, or of the spikes a recurrent layer keeps."""
        found = []
        if stage.keeps is not None:
            found.append(self.ring_row(stage.keeps))
        if stage.writes is not None and stage.name != PRED:
            found.append(self.ring_row(stage.writes))
            if stage.writes.pad:
                found.append(self.row_or_zeros(stage.writes.name, stage.writes.element_bits))
        elif stage.layer is not None:
            array = self.states[f"{stage.layer.identifier}_spikes"]
            found.append(
                f"static {array.kind} *{array.name}_row(int32_t row)\n{{\n"
                f"    return arena.state.{array.name} + row * {array.stride};\n}}\n"
            )
            found.append(self.row_or_zeros(array.name, 8 * element_bytes(array.kind)))
        return found

    def ring_row(self, rows: Rows) -> str:
        place = f" + row % {rows.count} * {rows.width}" if rows.count > 1 else ""
        unused = "" if rows.count > 1 else "    (void)row;\n"
        return (
            f"static uint{rows.element_bits}_t *{rows.name}_row(int32_t row)\n{{\n"
            f"{unused}    return arena.buffers.{rows.name}.rows{place};\n}}\n"
        )

    def row_or_zeros(self, name: str, bits: int) -> str:
        return (
            f"static const uint{bits}_t *{name}_at(int32_t row)\n{{\n"
            f"    return row >= 0 && row < NET_HEIGHT ? {name}_row(row) : zeros_{bits};\n}}\n"
        )

    def part_input(self, part: Part) -> _Input | None:
        """What the first stage of a part reads: the spikes kept by the part before."""
        number = self.schedule.parts.index(part)
        if number == 0:
            return None
        return self.output(self.schedule.parts[number - 1].stages[-1])

    def output(self, stage: Stage) -> _Input | None:
        if stage.name == EVENTS:
            return _Input("events", "uint8_t", self.network.bins, counts=True)
        if stage.layer is None:
            return None
        layer = stage.layer
        return _Input(f"{layer.identifier}_spikes", word_type(layer.channels), layer.channels)

    # Layers.

    def layer_function(self, stage: Stage, layer: SpikingLayer, source: _Input) -> str:
        name, channels = layer.identifier, layer.channels
        own, skip = layer.recurrent, self.output_pad(stage) * words(channels)
        row, plus = self.width * channels, f" + {skip}" if skip else ""
        lines = [
            self.layer_comment(layer, source),
            f"static void compute_{name}(int32_t y)",
            "{",
            self.pointers("in", source.kind, layer.convolution),
        ]
        if own is not None:
            lines.append(self.pointers("own", word_type(channels), own))
        lines += [
            *self.sums(layer),
            f"    int{layer.mem_bits}_t *mem = arena.state.{name}_mem + y * {row};",
            f"    {word_type(channels)} *spikes = {name}_spikes_row(y){plus};",
            self.counters([layer.convolution, own], self.blocks(layer, source)),
            "",
        ]
        lines += self.point_at_rows("in", layer.convolution, source, self.input_pad(stage))
        if own is not None:
            lines += self.keep_row(stage, layer, own)
        packing = packing_of(self.network, layer)
        lines.append("    for (x = 0; x < NET_WIDTH; ++x) {")
        if packing is not None:
            lines.append("        memset(pairs, 0, sizeof pairs);")
            lines.append("        count = 0;")
        else:
            lines.append(f"        memcpy(sums, {name}_bias, sizeof sums);")
        lines += self.add_taps("in", f"{name}_weight", layer.convolution, source, packing)
        if own is not None:
            spikes = _Input("", word_type(channels), channels)
            lines += self.add_taps("own", f"{name}_weight_rec", own, spikes, packing)
        if packing is not None:
            form = f"{packing.words(channels)}, {packing.parts}"
            lines.append(f"        NET_UNPACK_PAIRS(sums, pairs, {name}_bias, {form}, count);")
        lines += self.neurons(layer)
        lines += ["    }", "}", ""]
        return "\n".join(lines)

    def sums(self, layer: SpikingLayer) -> list[str]:
        """Declarations of what a pixel's convolutions sum up to."""
        packing = packing_of(self.network, layer)
        if packing is None:
            return [f"    int32_t sums[{layer.channels}];"]
        filled = packing.filled(layer.channels)
        return [
            f"    uint32_t pairs[{filled // 2}];",
            f"    int32_t sums[{filled}];",
            "    uint32_t count;",
        ]

    def pointers(self, name: str, kind: str, convolution: Convolution) -> str:
        many = f"[{convolution.kernel}]" if convolution.kernel > 1 else ""
        return f"    const {kind} *{name}{many};"

    def counters(self, convolutions: Sequence[Convolution | None], blocks: bool) -> str:
        """The declaration of a function's loop counters."""
        taps = any(each is not None and each.kernel > 1 for each in convolutions)
        return f"    int32_t x{', u, v' if taps else ''}{', k' if blocks else ''};"

    def blocks(self, layer: SpikingLayer, source: _Input) -> bool:
        return (
            words(layer.channels) > 1
            or (not source.counts and source.elements > 1)
            or layer.multiplier is not None
        )

    def layer_comment(self, layer: SpikingLayer, source: _Input) -> str:
        k = layer.convolution.kernel
        what = "counts" if source.counts else "spikes"
        own = f" and of its own {layer.channels} of the step before" if layer.recurrent else ""
        return (
            f"/* {layer.identifier}: {k} x {k} convolution of {source.channels} channels of {what}"
            f"{own},\n * then {layer.channels} neurons per pixel. */"
        )

    def input_pad(self, stage: Stage) -> int:
        """Columns of zeros in front of the rows that a stage reads."""
        before = None
        for part in self.schedule.parts:
            for each in part.stages:
                if each is stage:
                    return self.output_pad(before) if before is not None else 0
                before = each
        return 0

    def output_pad(self, stage: Stage) -> int:
        if stage.writes is not None:
            return stage.writes.pad
        assert stage.keeps is not None
        return stage.keeps.pad

    def point_at_rows(
        self, pointers: str, convolution: Convolution, source: _Input, pad: int
    ) -> list[str]:
        """Point at the rows that a convolution sees, one or as many as its kernel has."""
        offset = (pad - convolution.reach) * source.elements
        plus = f" + {offset}" if offset else ""
        if convolution.kernel == 1:
            return [f"    {pointers} = {source.function}_row(y){plus};"]
        row = f"y + u - {convolution.reach}"
        return [
            f"    for (u = 0; u < {convolution.kernel}; ++u) {{",
            f"        {pointers}[u] = {source.function}_at({row}){plus};",
            "    }",
        ]

    def keep_row(self, stage: Stage, layer: SpikingLayer, own: Convolution) -> list[str]:
        """Copy the row that is about to be overwritten; find the rows of the step before."""
        name, kept = layer.identifier, stage.keeps
        assert kept is not None
        offset = (kept.pad - own.reach) * words(layer.channels)
        plus = f" + {offset}" if offset else ""
        size = f"{kept.width} * sizeof(uint{kept.element_bits}_t)"
        copy = f"    memcpy({name}_before_row(y), {name}_spikes_row(y), {size});"
        if own.kernel == 1:
            return [copy, f"    own = {name}_before_row(y){plus};"]
        kept_row = f"row >= 0 && row <= y ? {name}_before_row(row) : {name}_spikes_at(row)"
        return [
            "    /* Rows up to this one hold, or will hold, new spikes; the old ones are kept. */",
            copy,
            f"    for (u = 0; u < {own.kernel}; ++u) {{",
            f"        const int32_t row = y + u - {own.reach};",
            f"        own[u] = {f'({kept_row}){plus}' if plus else kept_row};",
            "    }",
        ]

    def add_taps(
        self,
        pointers: str,
        weight: str,
        convolution: Convolution,
        source: _Input,
        packing: Packing | None = None,
    ) -> list[str]:
        """Add what one convolution sees at pixel x."""
        k, per_pixel = convolution.kernel, source.elements
        channels = int(convolution.weight.shape[0])
        # Elements of the weights of one input channel.
        stride = channels if packing is None else packing.words(channels)
        if k == 1:
            column = "x" if per_pixel == 1 else f"x * {per_pixel}"
            taps = self.add_tap(pointers, column, weight, source, stride, packing)
            return [f"        {line}" for line in taps]
        column = "x + v" if per_pixel == 1 else f"(x + v) * {per_pixel}"
        taps = self.add_tap(f"{pointers}[u]", column, "weight", source, stride, packing)
        tap = f"(u * {k} + v) * {convolution.inputs * stride}"
        kind = "int8_t" if packing is None else "uint32_t"
        return [
            f"        for (u = 0; u < {k}; ++u) {{",
            f"            for (v = 0; v < {k}; ++v) {{",
            f"                const {kind} *weight = {weight} + {tap};",
            *(f"                {line}" for line in taps),
            "            }",
            "        }",
        ]

    def add_tap(
        self,
        row: str,
        column: str,
        weight: str,
        source: _Input,
        stride: int,
        packing: Packing | None,
    ) -> list[str]:
        """Add what the convolution sees through one tap of its kernel."""
        if source.counts:
            bins = source.elements
            return [f"net_add_counts(sums, {row} + {column}, {bins}, {weight}, {stride});"]
        call, sums, kind = "net_add_spikes", "sums", "int8_t"
        form = str(stride)
        if packing is not None:
            call, sums, kind = "count += net_add_spikes_in_pairs", "pairs", "uint32_t"
            form += f", {packing.parts}"
        if source.elements == 1:
            return [f"{call}({sums}, {row}[{column}], {weight}, {form});"]
        return [
            f"for (k = 0; k < {source.elements}; ++k) {{",
            f"    const {kind} *block = {weight} + k * {32 * stride};",
            f"    {call}({sums}, {row}[{column} + k], block, {form});",
            "}",
        ]

    def neurons(self, layer: SpikingLayer) -> list[str]:
        name, channels = layer.identifier, layer.channels
        lines = []
        if layer.multiplier is not None:
            lines += [
                f"        for (k = 0; k < {channels}; ++k) {{",
                f"            sums[k] = net_requantize(sums[k], &{name}_factor[k]);",
                "        }",
            ]
        reset = f"NET_RESET_{layer.reset.upper()}"
        kernel = f"NET_NEURONS_INT{layer.mem_bits}"
        word = word_type(channels)
        if words(channels) == 1:
            lines += [
                f"        spikes[x] = ({word}){kernel}(sums, mem, {name}_decay, {name}_threshold,",
                f"            {channels}, {layer.frac_bits}, {reset});",
            ]
        else:
            count = words(channels)
            lines += [
                f"        for (k = 0; k < {count}; ++k) {{",
                "            const int32_t first = 32 * k;",
                f"            const int32_t left = {channels} - first;",
                f"            spikes[x * {count} + k] = {kernel}(sums + first, mem + first,",
                f"                {name}_decay + first, {name}_threshold + first,",
                f"                left < 32 ? left : 32, {layer.frac_bits}, {reset});",
                "        }",
            ]
        return [*lines, f"        mem += {channels};"]

    def pred_function(self, source: _Input) -> str:
        head = self.network.head.convolution
        last = self.schedule.parts[-1].stages[-1]
        lines = [
            f"/* The flow head: {head.kernel} x {head.kernel} convolution of {source.channels} "
            "channels of spikes to x and y. */",
            "static void compute_pred(int32_t y, net_write_row write, void *context)",
            "{",
            self.pointers("in", source.kind, head),
            "    int32_t *sums = arena.buffers.pred_sums.rows;",
            self.counters([head], source.elements > 1),
            "",
            *self.point_at_rows("in", head, source, self.input_pad(last)),
            "    for (x = 0; x < NET_WIDTH; ++x) {",
            "        memcpy(sums, pred_bias, sizeof pred_bias);",
            *self.add_taps("in", "pred_weight", head, source),
            "        sums += 2;",
            "    }",
            "    write(context, y, arena.buffers.pred_sums.rows);",
            "}",
            "",
        ]
        return "\n".join(lines)

    # Parts and the step.

    def part_function(self, part: Part) -> str:
        names = " -> ".join(stage.name for stage in part.stages)
        lines = [
            f"/* All rows of {names}. */",
            f"static void {part.name}({self.part_parameters(part)})",
            "{",
            "    int32_t t;",
            "",
        ]
        for stage in part.stages:
            if stage.writes is not None and stage.writes.pad:
                rows = f"arena.buffers.{stage.writes.name}.rows"
                lines.append(f"    memset({rows}, 0, sizeof {rows});")
        rounds = f"NET_HEIGHT + {part.lag}" if part.lag else "NET_HEIGHT"
        lines.append(f"    for (t = 0; t < {rounds}; ++t) {{")
        for stage in part.stages:
            conditions = []
            if stage.lag:
                conditions.append(f"t >= {stage.lag}")
            if stage.lag < part.lag:
                behind = f" + {stage.lag}" if stage.lag else ""
                conditions.append(f"t < NET_HEIGHT{behind}")
            call = self.stage_call(stage)
            if conditions:
                lines += [f"        if ({' && '.join(conditions)}) {{", f"    {call}", "        }"]
            else:
                lines.append(call)
        return "\n".join([*lines, "    }", "}", ""])

    def stage_call(self, stage: Stage) -> str:
        row = f"t - {stage.lag}" if stage.lag else "t"
        if stage.name == EVENTS:
            assert stage.writes is not None
            skip = stage.writes.pad * self.network.bins
            plus = f" + {skip}" if skip else ""
            return f"        read(context, {row}, events_row({row}){plus});"
        if stage.name == PRED:
            return f"        compute_pred({row}, write, context);"
        return f"        compute_{stage.name}({row});"

    def part_parameters(self, part: Part) -> str:
        names = [stage.name for stage in part.stages]
        parameters = ["net_read_row read"] if EVENTS in names else []
        parameters += ["net_write_row write"] if PRED in names else []
        return ", ".join([*parameters, "void *context"]) if parameters else "void"

    def step(self) -> str:
        calls = []
        for part in self.schedule.parts:
            parameters = self.part_parameters(part)
            given = (
                []
                if parameters == "void"
                else [entry.split()[-1].lstrip("*") for entry in parameters.split(", ")]
            )
            calls.append(f"    {part.name}({', '.join(given)});")
        arrays = "\n".join(
            f'    {{"{array.label}", arena.state.{array.name}'
            f"{f' + {array.pad}' if array.pad else ''}, "
            f"{element_bytes(array.kind)}, {array.rows}, {array.elements}, {array.stride}}},"
            for array in self.states.values()
        )
        text = template("net_step.c")
        return text.replace("@calls@", "\n".join(calls)).replace("@states@", arrays)
