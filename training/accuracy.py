"""The accuracy of networks in float and in integers, on scenes that nothing was trained on.

python -m training.accuracy --out docs/accuracy.md
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calib_data.console import run
from calib_data.files import atomic_path, check_writable
from models import ModelConfig, SpikingFireNet, load_network, shipped_checkpoints
from models.runs import resolve_checkpoint
from quant import (
    NetworkSpec,
    QuantOptions,
    calibrate,
    is_quantized_checkpoint,
    load_spec,
    quantize,
)
from quant.recordings import Plan, read_recordings
from training.clips import Clip, ClipScore, data_folder, load_clips, score_clips
from training.config import ConfigError
from training.data import Sequence as Recording
from training.heldout import (
    QUICK_SCENES,
    TEST_RESOLUTION,
    TEST_SCENES,
    TEST_SECONDS,
    TEST_SEED,
    Interval,
    Predictor,
    SceneScore,
    float_predictor,
    integer_predictor,
    load_scenes,
    mean_score,
    paired_ratio,
    score_scenes,
)
from training.membranes import MembraneReport, watch_membranes

FLOAT = "float"
NARROW = "PTQ 8-bit, 8-bit membranes"
PTQ = {
    "PTQ 7-bit": QuantOptions(7),
    "PTQ 8-bit": QuantOptions(8),
    NARROW: QuantOptions(8, 8),
    "PTQ 4-bit": QuantOptions(4),
}
TOLERANCE = 0.02


@dataclass(frozen=True)
class Form:
    """A network in one arithmetic; spec None for float."""

    label: str
    predict: Predictor
    spec: NetworkSpec | None = None


@dataclass(frozen=True)
class Row:
    """A line of the table.

    scores: by scene, in the order of the seeds. parent: ratio to the float network's AEE, None for
    that network itself or where it is not there. clips: scores on real recordings by name.
    """

    network: str
    form: str
    scores: list[SceneScore]
    parent: Interval | None = None
    clips: dict[str, ClipScore] = field(default_factory=dict)
    membranes: list[MembraneReport] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; None for what has no value."""
        mean = mean_score(self.scores)
        content = asdict(self) | {
            "mean": asdict(mean) | {"to_zero": mean.aee / mean.zero_aee},
            "parent": self.parent._asdict() if self.parent else None,
        }
        plain: dict[str, Any] = _plain(content)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def quantized_siblings(path: Path) -> list[Path]:
    """Integer networks beside a float checkpoint: ``STEM[.LABEL].quantized.safetensors``."""
    names = [f"{path.stem}.quantized.safetensors", f"{path.stem}.*.quantized.safetensors"]
    return sorted(found for name in names for found in path.parent.glob(name))


def trained_label(spec: NetworkSpec) -> str:
    """How a network that was trained on its grid is called in the table."""
    narrow = ", 8-bit membranes" if min(layer.mem_bits for layer in spec.layers) == 8 else ""
    return f"QAT {spec.weight_bits}-bit{narrow}"


def forms_of(path: Path, windows: list[list[Any]]) -> tuple[ModelConfig, list[Form]]:
    """A checkpoint in every arithmetic: float, post-training, and its quantized siblings.

    Args:
        path: float or quantized checkpoint; the latter has one form.
        windows: event counts float32 [1, 2, H, W] by recording, to calibrate on.
    """
    path = resolve_checkpoint(path)
    if is_quantized_checkpoint(path):
        spec = load_spec(path)
        config = ModelConfig(model=spec.model, encoding=spec.encoding, num_bins=spec.num_bins)
        return config, [Form(trained_label(spec), integer_predictor(spec), spec)]
    model = load_network(path)
    forms = [Form(FLOAT, float_predictor(model))]
    if isinstance(model, SpikingFireNet) and model.config.encoding == "cnt":
        calibration = calibrate(model, *windows)
        for label, options in PTQ.items():
            spec = quantize(model, options, calibration)
            forms.append(Form(label, integer_predictor(spec), spec))
    for sibling in quantized_siblings(path):
        spec = load_spec(sibling)
        forms.append(Form(trained_label(spec), integer_predictor(spec), spec))
    return model.config, forms


def measure(
    path: Path, options: Measurement, windows: list[list[Any]], clips: Sequence[Clip]
) -> Iterator[Row]:
    """The rows of one checkpoint."""
    config, forms = forms_of(path, windows)
    scenes = options.scenes(config)
    parent: list[SceneScore] | None = None
    name = path.name.split(".")[0]
    for form in forms:
        label = f"{name}, {form.label}"
        scores = score_scenes(form.predict, scenes, label, quiet=options.quiet)
        usable = clips if config.encoding == "cnt" else []
        yield Row(
            name,
            form.label,
            scores,
            None if parent is None else paired_ratio(scores, parent),
            score_clips(form.predict, usable, f"{label}, recordings", quiet=options.quiet),
            watch_membranes(form.spec, scenes[0])
            if form.label in ("PTQ 8-bit", NARROW) and form.spec
            else [],
        )
        parent = scores if form.label == FLOAT else parent


@dataclass(frozen=True)
class Measurement:
    """On what is measured: ``count`` scenes from TEST_SEED on, kept in ``cache``."""

    cache: Path = Path("build/scenes")
    count: int = TEST_SCENES
    resolution: tuple[int, int] = TEST_RESOLUTION
    seconds: float = TEST_SECONDS
    quiet: bool = False

    @property
    def seeds(self) -> range:
        """Of the scenes."""
        return range(TEST_SEED, TEST_SEED + self.count)

    def scenes(self, config: ModelConfig) -> list[Recording]:
        """As a network of this configuration sees them."""
        return load_scenes(
            self.cache, self.seeds, config, self.resolution, self.seconds, quiet=self.quiet
        )


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if math.isfinite(share) else "-"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of text cells."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdict(ratio: Interval) -> str:
    """Whether the AEE is within 2 % of the float network's, given the noise of the scenes."""
    if ratio.high <= 1 + TOLERANCE:
        return "yes"
    return "no" if ratio.low > 1 + TOLERANCE else "undecided"


def main_table(rows: Sequence[Row]) -> str:
    """Network by arithmetic: means over scenes."""
    lines = []
    for row in rows:
        mean, ratio = mean_score(row.scores), row.parent
        interval = (
            f"{ratio.ratio:.3f} ({_number(ratio.low)} to {_number(ratio.high)})" if ratio else "-"
        )
        lines.append(
            [
                row.network,
                row.form,
                _number(mean.aee),
                _number(mean.aee / mean.zero_aee),
                interval,
                verdict(ratio) if ratio else "-",
                _percent(mean.outliers),
                _number(mean.aae, 1),
                _percent(mean.spike_rate),
            ]
        )
    headings = (
        "network", "arithmetic", "AEE px", "to zero flow", "to float (95 %)", "within 2 %",
        "outliers", "AAE deg", "spikes",
    )  # fmt: skip
    return markdown_table(headings, lines)


def scene_table(rows: Sequence[Row], seeds: range) -> str:
    """How much scenes differ: AEE over zero flow by scene, float, and the integer rows' spread."""
    lines = []
    for row in rows:
        shares = np.array([score.aee / score.zero_aee for score in row.scores])
        quartiles = np.percentile(shares, [0, 25, 50, 75, 100])
        worst = seeds[int(shares.argmax())]
        lines.append([row.network, row.form, *(_number(float(q)) for q in quartiles), str(worst)])
    headings = ("network", "arithmetic", "least", "25 %", "median", "75 %", "most", "worst scene")
    return markdown_table(headings, lines)


def membrane_table(rows: Sequence[Row]) -> str:
    """Layer by layer, membranes of 16 and of 8 bits."""
    lines = [
        [
            row.network,
            report.layer,
            str(report.mem_bits),
            f"{report.threshold:.0f}",
            _percent(report.saturated),
            _percent(report.rounded_away),
            _percent(report.fired),
        ]
        for row in rows
        for report in row.membranes
    ]
    headings = (
        "network", "layer", "membrane bits", "threshold (units)", "saturated",
        "currents rounded away", "spikes",
    )  # fmt: skip
    return markdown_table(headings, lines)


def recording_table(rows: Sequence[Row]) -> str:
    """Real recordings: mean flow warp loss, and error against rotational flow over zero flow's."""
    names = sorted({name for row in rows for name in row.clips})
    if not names:
        return "No real recordings were there."
    lines = []
    for row in rows:
        cells = []
        for clip in (row.clips.get(name) for name in names):
            warp = "-" if clip is None else _number(clip.fwl, 2)
            known = clip is not None and math.isfinite(clip.error)
            cells.append(
                f"{warp}; {clip.error:.2f} / {clip.zero_error:.2f}" if clip and known else warp
            )
        lines.append([row.network, row.form, *cells])
    return markdown_table(("network", "arithmetic", *names), lines)


def sections(rows: Sequence[Row], measurement: Measurement) -> dict[str, str]:
    """What goes between the page's markers, by name."""
    height, width = measurement.resolution
    return {
        "setting": f"{measurement.count} scenes (seeds {measurement.seeds[0]} to "
        f"{measurement.seeds[-1]}) of {measurement.seconds:g} s, {height} x {width} pixels.",
        "table": main_table(rows),
        "scenes": scene_table(rows, measurement.seeds),
        "membranes": membrane_table(rows),
        "recordings": recording_table(rows),
    }


def fill(page: str, parts: dict[str, str]) -> str:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises:
        ConfigError: a marker is missing.
    """
    for name, text in parts.items():
        before, opening, rest = page.partition(f"<!-- {name} -->")
        _, closing, after = rest.partition(f"<!-- /{name} -->")
        if not opening or not closing:
            raise ConfigError(f"the page lacks <!-- {name} --> and <!-- /{name} --> after it")
        page = f"{before}{opening}\n{text}\n{closing}{after}"
    return page


def kept_rows(page: str, parts: dict[str, str], measured: set[str]) -> dict[str, str]:
    """The new tables with the page's rows of networks that were not measured, by network.

    Raises:
        ConfigError: the page was made on other scenes or recordings.
    """
    merged = {}
    for name, text in parts.items():
        old = page.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- /{name} -->")[0]
        head, rows = text.splitlines()[:2], text.splitlines()[2:]
        if old.splitlines()[:2] != head:
            raise ConfigError(
                f"--only keeps the page's other rows, but its part {name!r} was made on other "
                "scenes or recordings; measure all networks"
            )
        rows += [line for line in old.splitlines()[2:] if _network(line) not in measured]
        merged[name] = "\n".join([*head, *sorted(rows, key=_network)])
    return merged


def _network(line: str) -> str:
    return line.split("|")[1].strip()


def _empty_page(parts: dict[str, str]) -> str:
    return "".join(f"<!-- {name} -->\n<!-- /{name} -->\n\n" for name in parts)


def _write(path: Path, parts: dict[str, str], kept: set[str] | None = None) -> None:
    """``kept``: the networks measured, where rows of others stay."""
    page = path.read_text() if path.exists() else _empty_page(parts)
    if kept is not None:
        parts = kept_rows(page, parts, kept)
    with atomic_path(path) as temporary:
        temporary.write_text(fill(page, parts))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.accuracy",
        description="Errors of networks in float and integers on scenes held out from everything.",
        epilog="example: python -m training.accuracy --quick --checkpoint runs/a/best.safetensors",
    )
    parser.add_argument(
        "--checkpoint", type=Path, action="append", default=[], metavar="F",
        help="a further network, float or quantized, or runs:ID; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--only", action="append", metavar="NETWORK",
        help="of the shipped ones, such as LIFFireNet-32; a page keeps its rows of the others",
    )  # fmt: skip
    parser.add_argument("--no-shipped", action="store_true", help="only those of --checkpoint")
    parser.add_argument("--scenes", type=int, metavar="N", help=f"default: {TEST_SCENES}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SCENES} scenes")
    parser.add_argument(
        "--resolution", type=int, nargs=2, default=TEST_RESOLUTION, metavar=("H", "W")
    )
    parser.add_argument("--seconds", type=float, default=TEST_SECONDS, help="of each scene")
    parser.add_argument("--cache", type=Path, default=Path("build/scenes"), help="of the scenes")
    parser.add_argument("--no-recordings", action="store_true", help="synthetic scenes only")
    parser.add_argument(
        "--out", type=Path, metavar="F", help="Markdown page; what is between its markers changes"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def _shipped(only: list[str] | None) -> list[Path]:
    paths = shipped_checkpoints()
    names = [path.name.split(".")[0] for path in paths]
    for name in only or []:
        if name not in names:
            raise ConfigError(f"--only {name}: no such shipped network; known: {', '.join(names)}")
    return [p for p, name in zip(paths, names, strict=True) if only is None or name in only]


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    arguments = _parser().parse_args(argv)
    count = arguments.scenes or (QUICK_SCENES if arguments.quick else TEST_SCENES)
    if count < 1 or min(arguments.resolution) < 1 or arguments.seconds <= 0:
        raise ConfigError("--scenes, --resolution and --seconds must be positive")
    paths = [*([] if arguments.no_shipped else _shipped(arguments.only)), *arguments.checkpoint]
    if not paths:
        raise ConfigError("--no-shipped leaves nothing to measure; add --checkpoint")
    measurement = Measurement(
        arguments.cache, count, tuple(arguments.resolution), arguments.seconds, arguments.json
    )
    if arguments.out is not None:
        check_writable(arguments.out)
        if arguments.out.exists():
            fill(arguments.out.read_text(), dict.fromkeys(sections([], measurement), ""))
    folder = None if arguments.no_recordings else data_folder()
    clips = [] if folder is None else load_clips(folder)
    windows = [recording.floats() for recording in read_recordings([], Plan())]
    rows = [row for path in paths for row in measure(path, measurement, windows, clips)]
    parts = sections(rows, measurement)
    if arguments.out is not None:
        _write(arguments.out, parts, {row.network for row in rows} if arguments.only else None)
    if arguments.json:
        print(json.dumps({"seeds": list(measurement.seeds), "rows": [r.to_dict() for r in rows]}))
    else:
        print(parts["table"])
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
