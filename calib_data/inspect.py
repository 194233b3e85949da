"""``python -m calib_data.inspect FILE``: what is in a recording, in figures and one picture."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from calib_data.console import progress, run
from calib_data.errors import DataError
from calib_data.files import atomic_path
from calib_data.hdf5 import FLOW_GROUPS, EventFile
from calib_data.npz import HDF5_SUFFIXES, open_events
from calib_data.statistics import GAP_S, EventStatistics

BLOCK = 1 << 19


def inspect(
    path: Path,
    resolution: tuple[int, int] | None = None,
    *,
    gap_s: float = GAP_S,
    quiet: bool = True,
) -> tuple[dict[str, Any], EventStatistics]:
    """Figures of a recording (for JSON) and the statistics that they come from.

    Disorder and events outside the sensor are counted, not refused: that is what inspecting is for.
    gap_s: what counts as a gap, seconds. Raises DataError for what is no recording.
    """
    with open_events(path, resolution) as source:
        statistics = EventStatistics(source.resolution, gap_s=gap_s)
        starts = range(0, source.num_events, BLOCK)
        with _columns(path) as columns:
            for start in progress(starts, "reading", len(starts), quiet=quiet):
                stop = min(start + BLOCK, source.num_events)
                if columns is None:
                    events = source.read(start, stop)
                    statistics.add(events.xs, events.ys, events.ts, events.ps)
                else:
                    statistics.add(*(column[start:stop] for column in columns))
        figures = _figures(path, statistics)
        if isinstance(source, EventFile):
            figures |= _maps(source)
    return figures, statistics


@contextlib.contextmanager
def _columns(path: Path) -> Any:
    """The raw columns of an HDF5 file, which ``EventFile.read`` would refuse if out of order."""
    if path.suffix.lower() not in HDF5_SUFFIXES:
        yield None
        return
    try:
        with h5py.File(path, "r") as file:
            yield [file[f"events/{name}"] for name in ("xs", "ys", "ts", "ps")]
    except OSError as error:
        raise DataError(f"{path}: events cannot be read, the file is damaged ({error})") from error


def _figures(path: Path, statistics: EventStatistics) -> dict[str, Any]:
    share = statistics.positive_share
    at = statistics.longest_gap[1]
    per_slot = statistics.rate_over_time() / statistics.hot_window_s
    return {
        "path": str(path),
        "resolution": list(statistics.resolution),
        "events": statistics.num_events,
        "duration_s": statistics.duration,
        "rate_hz": statistics.rate,
        # A recording shorter than a slot fills none.
        "peak_rate_hz": max(float(per_slot.max()), statistics.rate) if len(per_slot) else 0.0,
        "positive_share": share if share == share else None,
        "active_pixels": int((statistics.counts > 0).sum()),
        "hot_pixels": statistics.hot_pixels(),
        "gap_ms": 1000 * statistics.gap_s,
        "gaps": statistics.num_gaps,
        "longest_gap_s": statistics.longest_gap[0],
        "longest_gap_at_s": at if at == at else None,
        "out_of_order": statistics.num_back,
        "largest_step_back_s": statistics.largest_back,
        "outside_sensor": statistics.outside,
        "impossible_times": statistics.impossible_times,
        "odd_polarity": statistics.odd_polarity,
        "problems": [],
    }


def _maps(source: EventFile) -> dict[str, Any]:
    """Numbers of flow maps and images, 0 where there are none, and what is wrong with them."""
    found: dict[str, Any] = {"problems": []}
    with h5py.File(source.path, "r") as file:
        present = {name for name in (*FLOW_GROUPS.values(), "images") if name in file}
    times = {f"flow_maps_{dt}": (FLOW_GROUPS[dt], dt) for dt in FLOW_GROUPS}
    for key, (group, dt) in (times | {"images": ("images", None)}).items():
        found[key] = 0
        try:
            if group in present:
                found[key] = len(source.image_times() if dt is None else source.flow_times(dt))
        except DataError as error:
            found["problems"].append(str(error))
    return found


def describe(figures: dict[str, Any]) -> str:
    """The figures as text."""
    height, width = figures["resolution"]
    share = figures["positive_share"]
    hot = figures["hot_pixels"]
    lines = [
        f"{figures['path']}: {width} x {height} pixels, {figures['active_pixels']:,} of "
        f"{width * height:,} active",
        f"  events        {figures['events']:,} in {figures['duration_s']:.3f} s",
        f"  rate          {figures['rate_hz']:,.0f} per s, at most {figures['peak_rate_hz']:,.0f}",
        f"  brighter      {'-' if share is None else f'{100 * share:.1f} %'}",
        f"  hot pixels    {len(hot)}"
        + "".join(f"\n    x {x}, y {y}: in {100 * r:.0f} % of the windows" for x, y, r in hot[:10]),
        f"  gaps          {figures['gaps']} over {figures['gap_ms']:g} ms, the longest "
        f"{1000 * figures['longest_gap_s']:.3f} ms",
        f"  out of order  {figures['out_of_order']:,}, by at most "
        f"{1000 * figures['largest_step_back_s']:.3f} ms",
        f"  outside       {figures['outside_sensor']:,}",
    ]
    if figures["impossible_times"] or figures["odd_polarity"]:
        lines.append(
            f"  damaged       {figures['impossible_times']:,} impossible times, "
            f"{figures['odd_polarity']:,} polarities that are not 0 or 1 (or -1 or 1)"
        )
    if "images" in figures:
        lines.append(
            f"  ground truth  {figures['flow_maps_dt1']} maps (dt1), "
            f"{figures['flow_maps_dt4']} (dt4); {figures['images']} images"
        )
    lines += [f"  problem       {problem}" for problem in figures["problems"]]
    return "\n".join(lines)


def plot(statistics: EventStatistics, path: Path, title: str) -> None:
    """Write a PNG: events per second over time, and events per pixel with hot pixels circled."""
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(10, 4), layout="constrained"
    )
    figure.suptitle(title)
    over_time, on_sensor = figure.subplots(1, 2)
    rates = statistics.rate_over_time() / statistics.hot_window_s
    over_time.step(np.arange(len(rates)) * statistics.hot_window_s, rates, where="post")
    over_time.set(xlabel="time [s]", ylabel="events per second")
    shown: NDArray[np.float64] = np.log10(1.0 + statistics.counts)
    image = on_sensor.imshow(shown, cmap="viridis", interpolation="nearest")
    figure.colorbar(image, ax=on_sensor, label="log10(1 + events)")
    hot = statistics.hot_pixels()
    on_sensor.plot([x for x, _, _ in hot], [y for _, y, _ in hot], "o", mec="red", mfc="none")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    if not arguments.gap_ms > 0:
        raise DataError(f"--gap-ms must be above 0, got {arguments.gap_ms}")
    if arguments.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise DataError("--plot needs matplotlib; pip install 'spikedeploy[report]'")
    resolution = None if arguments.resolution is None else tuple(arguments.resolution)
    figures, statistics = inspect(
        arguments.file, resolution, gap_s=arguments.gap_ms / 1000, quiet=arguments.json
    )
    if arguments.plot is not None:
        plot(statistics, arguments.plot, arguments.file.name)
    print(json.dumps(figures) if arguments.json else describe(figures))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m calib_data.inspect",
        description="Show rate, duration, resolution, polarity, hot pixels, gaps and disorder of a "
        "recording (.h5, .hdf5, .npz).",
        epilog="example: python -m calib_data.inspect indoor_flying1.h5 --plot indoor_flying1.png",
    )
    add = parser.add_argument
    add("file", type=Path, help="the recording")
    add("--resolution", type=int, nargs=2, metavar=("H", "W"), help="where the file tells none")
    add("--gap-ms", type=float, default=1000 * GAP_S, metavar="MS", help="a gap (%(default)g)")
    add("--plot", type=Path, metavar="FILE.png", help="write rate and events per pixel as picture")
    add("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
