"""``python -m runtime.trace model.onnx --data F --layer G1``: chosen neurons over time.

A neuron is a channel of a layer at a pixel of the layer's own grid (x to the right, y downwards).
Membranes are those after each step, thus after resets: where a neuron fires, the plot shows a spike
above a membrane that was already reset.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calib_data import console
from calib_data.files import check_writable
from runtime.artifact import load_model
from runtime.errors import EvaluationError
from runtime.house import start_command
from runtime.looking import (
    add_looking_arguments,
    looking,
    new_figure,
    save_figure,
    write_json,
    write_rows,
)
from runtime.neurons import LayerMoment, LayerNeurons, layer_neurons, unavailable

COLUMNS = (
    "step", "seconds", "layer", "channel", "x", "y", "membrane", "threshold", "spike",
    "membrane_real", "threshold_real",
)  # fmt: skip
"""Columns of the CSV file, one row per window and neuron."""

MOST_NEURONS = 64
Pixel = tuple[int, int]


@dataclass
class NeuronTrace:
    """One neuron over time.

    membranes: in units of the state, integers where the state has them; spikes: whether it fired.
    Either holds None where the file does not show it.
    """

    neurons: LayerNeurons
    channel: int
    x: int
    y: int
    membranes: list[int | float | None] = field(default_factory=list)
    spikes: list[bool | None] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Layer, channel and place."""
        return f"{self.neurons.name}, channel {self.channel}, x {self.x}, y {self.y}"

    @property
    def threshold(self) -> float | None:
        """In units of the state."""
        values = self.neurons.threshold
        return None if values is None else float(values[self.channel])

    def add(self, moment: LayerMoment) -> None:
        """Take a step in (the first of a batch)."""
        place = (0, self.channel, self.y, self.x)
        membranes, spikes = moment.membranes, moment.spikes
        self.membranes.append(None if membranes is None else membranes[place].item())
        self.spikes.append(None if spikes is None else bool(spikes[place] != 0))

    def rows(self, steps: Sequence[int], seconds: Sequence[float]) -> list[dict[str, Any]]:
        """Values of the CSV file, one row per step."""
        unit = None if self.neurons.unit is None else float(self.neurons.unit[self.channel])
        real = self.neurons.threshold_real
        threshold = self.threshold
        if threshold is not None and self.neurons.integer:
            threshold = int(threshold)
        return [
            {
                "step": step,
                "seconds": time,
                "layer": self.neurons.name,
                "channel": self.channel,
                "x": self.x,
                "y": self.y,
                "membrane": membrane,
                "threshold": threshold,
                "spike": spike,
                "membrane_real": None if membrane is None or unit is None else membrane * unit,
                "threshold_real": None if real is None else float(real[self.channel]),
            }
            for step, time, membrane, spike in zip(
                steps, seconds, self.membranes, self.spikes, strict=True
            )
        ]


def check_choice(
    neurons: dict[str, LayerNeurons], layers: Sequence[str], channels: Sequence[int], pixels: int
) -> None:
    """Raise EvaluationError for a layer or channel there is none of, or too many neurons."""
    for name in layers:
        if name not in neurons:
            raise EvaluationError(f"no layer {name!r}; the file has {', '.join(neurons)}")
        for channel in channels:
            if channel >= neurons[name].channels:
                raise EvaluationError(
                    f"no channel {channel}; layer {name} has 0 to {neurons[name].channels - 1}"
                )
    chosen = len(layers) * len(channels) * pixels
    if chosen > MOST_NEURONS:
        raise EvaluationError(
            f"{chosen} neurons chosen, at most {MOST_NEURONS} can be drawn; name fewer layers, "
            "channels or pixels"
        )


def make_traces(
    neurons: dict[str, LayerNeurons],
    moments: dict[str, LayerMoment],
    layers: Sequence[str],
    channels: Sequence[int],
    pixels: Sequence[Pixel],
) -> list[NeuronTrace]:
    """Empty traces of the chosen neurons; without pixels that in each layer's middle.

    Raises EvaluationError for a pixel outside a layer, or a layer of which nothing is shown.
    """
    traces = []
    for name in layers:
        moment = moments[name]
        array = moment.membranes if moment.membranes is not None else moment.spikes
        if array is None:
            raise EvaluationError(f"layer {name}: this file shows neither membranes nor spikes")
        height, width = array.shape[2:]
        for x, y in pixels or [(width // 2, height // 2)]:
            if x >= width or y >= height:
                raise EvaluationError(
                    f"pixel {x},{y} lies outside layer {name}, which has x 0 to {width - 1} and "
                    f"y 0 to {height - 1}"
                )
            traces += [NeuronTrace(neurons[name], channel, x, y) for channel in channels]
    return traces


def plot_traces(traces: Sequence[NeuronTrace], seconds: Sequence[float], path: Path) -> None:
    """Draw every neuron: membrane, threshold, and a stroke above for each spike.

    Raises PictureError without matplotlib.
    """
    figure = new_figure(11, 1 + 1.6 * len(traces))
    rows = figure.subplots(len(traces), 1, sharex=True, squeeze=False)[:, 0]
    for axes, trace in zip(rows, traces, strict=True):
        axes.set_title(trace.title, fontsize=9)
        axes.set_ylabel("units of the state" if trace.neurons.dtype != "float32" else "membrane")
        if None not in trace.membranes:
            axes.plot(
                seconds, trace.membranes, drawstyle="steps-post", marker=".", label="membrane"
            )
        if trace.threshold is not None:
            axes.axhline(trace.threshold, color="tab:red", linestyle="--", label="threshold")
        fired = [time for time, spike in zip(seconds, trace.spikes, strict=True) if spike]
        axes.vlines(
            fired, 0.92, 1.0, color="black", transform=axes.get_xaxis_transform(), label="spikes"
        )
        axes.legend(loc="lower left", fontsize=7)
    rows[-1].set_xlabel("end of the window, seconds")
    save_figure(figure, path)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    start_command()
    loaded = load_model(arguments.model)
    neurons = layer_neurons(loaded)
    channels = list(dict.fromkeys(arguments.channel or [0]))
    pixels = list(dict.fromkeys(arguments.pixel or []))
    layers = list(dict.fromkeys(arguments.layer))
    check_choice(neurons, layers, channels, max(1, len(pixels)))
    picture = arguments.png
    if picture is None and arguments.csv is None and arguments.json is None:
        picture = Path("trace.png")
    for path in filter(None, (picture, arguments.csv, arguments.json)):
        check_writable(path)
    if picture is not None:
        new_figure(1, 1)
    traces: list[NeuronTrace] = []
    notes: list[str] = []
    steps: list[int] = []
    seconds: list[float] = []
    with looking(loaded, arguments) as run:
        for record, moments in run.steps("tracing"):
            if not traces:
                traces = make_traces(neurons, moments, layers, channels, pixels)
                notes = unavailable({name: neurons[name] for name in layers}, moments)
            steps.append(record.window.index)
            seconds.append(float(record.window.t_stop))
            for trace in traces:
                trace.add(moments[trace.neurons.name])
    if not traces:
        raise EvaluationError(f"--skip {arguments.skip} leaves no window to look at")
    for trace in traces:
        shown = None not in trace.spikes
        print(f"{trace.title}: " + (f"{sum(map(bool, trace.spikes))} spikes in " if shown else "")
              + f"{len(steps)} steps")  # fmt: skip
    for note in notes:
        print(note)
    rows = [row for trace in traces for row in trace.rows(steps, seconds)]
    if arguments.csv is not None:
        write_rows(arguments.csv, COLUMNS, rows)
    if arguments.json is not None:
        write_json(arguments.json, {"model": str(arguments.model), "data": str(arguments.data),
                                    "notes": notes, "rows": rows})  # fmt: skip
    if picture is not None:
        plot_traces(traces, seconds, picture)
        print(f"wrote {picture}")
    return 0


def _pixel(text: str) -> Pixel:
    x, _, y = text.partition(",")
    if not (x.isdecimal() and y.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected x,y such as 12,7, got {text!r}")
    return int(x), int(y)


def _channel(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a channel's number from 0, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.trace",
        description="Membranes, thresholds and spikes of chosen neurons over time.",
        epilog="example: python -m runtime.trace model.int8.onnx --data recording.h5 --layer G1 "
        "--pixel 12,7 --pixel 20,7 --channel 3 --png trace.png --csv trace.csv",
    )
    add_looking_arguments(parser)
    parser.add_argument(
        "--layer", action="append", required=True, metavar="NAME", help="may be given again"
    )
    parser.add_argument(
        "--pixel", action="append", type=_pixel, metavar="X,Y",
        help="of the layer's grid, may be given again (default: its middle)",
    )  # fmt: skip
    parser.add_argument(
        "--channel", action="append", type=_channel, metavar="N",
        help="from 0, may be given again (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--png", type=Path, metavar="F", help="draw them (default without --csv: trace.png)"
    )
    parser.add_argument("--csv", type=Path, metavar="F", help="write a row per window and neuron")
    parser.add_argument("--json", type=Path, metavar="F", help="write the same rows as JSON")
    return parser


if __name__ == "__main__":
    raise SystemExit(console.run(main))
