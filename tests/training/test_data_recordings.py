"""Recordings as sequences and chunks: against the encodings, windows and filters they stand on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from calib_data.encodings import event_counts, event_mask, voxel_grid
from calib_data.events import Events
from calib_data.hdf5 import EventFile, EventFileWriter
from calib_data.hot_pixels import HotPixelFilter
from calib_data.synthetic import SceneConfig, write_scene
from calib_data.windows import Window, iterate_windows
from training.data import (
    Augmentation,
    HotPixels,
    Sequence,
    SlotSampler,
    StreamedSequence,
    WindowFormat,
    load_sequence,
    scene_path,
)

HEIGHT, WIDTH = 14, 18
RESOLUTION = (HEIGHT, WIDTH)
MAPS = 9
VOXEL = WindowFormat("events", 60, "voxel", 3, with_events=True)
EVERY_MODE = [
    WindowFormat("events", 70),
    WindowFormat("time", 0.15),
    WindowFormat("frames", 1),
    WindowFormat("gtflow_dt1", 1),
    WindowFormat("gtflow_dt1", 2),
    WindowFormat("gtflow_dt1", 0.25),
    WindowFormat("gtflow_dt4", 0.25),
]


def write_recording(path: Path, seed: int = 0, number: int = 1500, hot: bool = False) -> Path:
    """Random events over 2 s, flow maps and images 0.2 s apart; a pause from 1 s to 1.3 s."""
    rng = np.random.default_rng(seed)
    ts = np.sort(rng.uniform(0, 2, number))
    ts = ts[(ts < 1.0) | (ts > 1.3)]
    xs, ys = rng.integers(0, WIDTH, len(ts)), rng.integers(0, HEIGHT, len(ts))
    if hot:
        xs[::5], ys[::5] = 3, 4
    ps = rng.choice(np.array([-1, 1], np.int8), len(ts))
    with EventFileWriter(path, RESOLUTION, t0=50.0) as writer:
        writer.append(Events(xs.astype(np.int16), ys.astype(np.int16), ts, ps))
        for index in range(MAPS):
            flow = rng.normal(0, 3, (2, *RESOLUTION)).astype(np.float32)
            flow[:, :3] = 0
            flow[0, 5] = 0
            writer.add_flow("dt1", 0.1 + 0.2 * index, flow)
            if index % 4 == 0:
                writer.add_flow("dt4", 0.1 + 0.2 * index, flow * 4)
            writer.add_image(0.1 + 0.2 * index, np.zeros(RESOLUTION, np.uint8))
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "recording.h5")


def windows_of(path: Path, form: WindowFormat) -> list[Window]:
    with EventFile(path) as file:
        return list(iterate_windows(file, form.mode, form.window))


def same(first: Sequence, second: Sequence) -> bool:
    """Whether two sequences hold the same windows."""
    events: Any = first.events, second.events
    return (
        np.array_equal(first.counts, second.counts)
        and np.array_equal(first.inputs, second.inputs)
        and np.array_equal(first.flow, second.flow, equal_nan=True)
        and (events[0] is None) == (events[1] is None)
        and all(np.array_equal(a, b) for a, b in zip(events[0] or (), events[1] or (), strict=True))
    )


@pytest.mark.parametrize("form", EVERY_MODE, ids=lambda form: f"{form.mode}-{form.window}")
@pytest.mark.parametrize(
    ("encoding", "rounded"), [("cnt", False), ("voxel", False), ("voxel", True)]
)
def test_windows_are_encoded_as_they_are_defined(
    recording: Path, form: WindowFormat, encoding: Any, rounded: bool
) -> None:
    form = replace(form, encoding=encoding, num_bins=4, round_encoding=rounded, quiet_events=0)
    sequence = load_sequence(recording, form)
    windows = windows_of(recording, form)
    assert len(sequence) == len(windows) > 1 and sequence.resolution == RESOLUTION
    for index, window in enumerate(windows):
        counts = event_counts(window.events, RESOLUTION, np.uint8)
        assert np.array_equal(sequence.counts[index], counts)
        wanted: Any = counts
        if encoding == "voxel":
            wanted = voxel_grid(window.events, 4, RESOLUTION, round_time=rounded)
        assert np.array_equal(sequence.inputs[index], wanted)
        assert sequence.inputs.dtype == (np.uint8 if encoding == "cnt" else np.float32)
    assert np.isnan(sequence.flow).all() != form.mode.startswith("gtflow")


@pytest.mark.parametrize(
    ("mode", "window"),
    [("gtflow_dt1", 1), ("gtflow_dt1", 3), ("gtflow_dt1", 0.5), ("gtflow_dt4", 0.25)],
)
def test_flow_is_per_window(recording: Path, mode: str, window: float) -> None:
    """Whole intervals: times their number. Slices: times dt_input / dt_gt of the slice."""
    form = WindowFormat(mode, window)
    sequence = load_sequence(recording, form)
    for index, cut in enumerate(windows_of(recording, form)):
        assert cut.flow is not None
        truth = (cut.flow != 0).any(0)
        assert truth.any() and not truth.all()
        share = window if window >= 1 else cut.dt_input / cut.dt_gt
        if len(cut.events) <= form.quiet_events:
            share = window
        got = sequence.flow[index]
        assert np.isnan(got[:, ~truth]).all() and np.isfinite(got[:, truth]).all()
        np.testing.assert_allclose(got[:, truth], cut.flow[:, truth] * share, rtol=2e-6)
        if window == 1:
            assert np.array_equal(got[:, truth], cut.flow[:, truth])


def test_windows_of_ten_events_are_empty(tmp_path: Path) -> None:
    times = np.concatenate([0.001 + 0.0005 * np.arange(10), 0.1 + 0.0005 * np.arange(11)])
    place = np.zeros(21, np.int16)
    with EventFileWriter(tmp_path / "x.h5", RESOLUTION) as writer:
        writer.append(Events(place, place, times, np.ones(21, np.int8)))
        writer.append(Events(place[:1], place[:1], np.array([0.3]), np.ones(1, np.int8)))
    form = WindowFormat("time", 0.1, "voxel", 2, with_events=True)
    sequence = load_sequence(tmp_path / "x.h5", form)
    assert sequence.counts.sum((1, 2, 3)).tolist() == [0, 11]
    assert not sequence.inputs[0].any() and sequence.inputs[1].any()
    assert sequence.events is not None and sequence.events.offsets.tolist() == [0, 0, 11]
    kept = load_sequence(tmp_path / "x.h5", replace(form, quiet_events=9))
    assert kept.counts.sum((1, 2, 3)).tolist() == [10, 11]


@pytest.mark.parametrize("encoding", ["cnt", "voxel"])
def test_hot_pixels_vanish_from_inputs_and_events(tmp_path: Path, encoding: Any) -> None:
    path = write_recording(tmp_path / "hot.h5", hot=True)
    options = HotPixels(max_pixels=2, min_observations=4, max_rate=0.6)
    form = WindowFormat("events", 60, encoding, 3, hot_pixels=options, with_events=True)
    sequence = load_sequence(path, form)
    hot = HotPixelFilter(RESOLUTION, 2, 4, 0.6)
    assert sequence.events is not None
    for index, window in enumerate(windows_of(path, form)):
        keep = hot.update(event_mask(window.events, RESOLUTION))
        counts = event_counts(window.events, RESOLUTION, np.uint8)
        assert np.array_equal(sequence.counts[index], counts * keep)
        if encoding == "voxel":
            wanted = voxel_grid(window.events, 3, RESOLUTION) * keep
            assert np.array_equal(sequence.inputs[index], wanted)
        cut = sequence.events.cut(index, index + 1)
        assert np.array_equal(events_to_counts(cut.ys, cut.xs, cut.ps, RESOLUTION), counts * keep)
    assert sequence.counts[0, :, 4, 3].any() and not sequence.counts[5:, :, 4, 3].any()


def events_to_counts(y: Any, x: Any, p: Any, resolution: tuple[int, int]) -> npt.NDArray[np.int64]:
    counts = np.zeros((2, *resolution), np.int64)
    np.add.at(counts, ((np.asarray(p) < 0).astype(int), y.astype(int), x.astype(int)), 1)
    return counts


def test_times_run_from_0_to_1_in_each_window(recording: Path) -> None:
    form = WindowFormat("gtflow_dt1", 1, quiet_events=0, with_events=True)
    events = load_sequence(recording, form).events
    assert events is not None
    for index, window in enumerate(windows_of(recording, form)):
        got, ts = events.cut(index, index + 1).ts, window.events.ts
        assert len(got) == len(ts)
        if not len(ts):
            continue
        np.testing.assert_allclose(got, (ts - ts[0]) / (ts[-1] - ts[0]), atol=1e-7)
        assert got[0] == 0 and got[-1] == 1


@pytest.mark.parametrize(
    "form", [*EVERY_MODE, VOXEL], ids=lambda form: f"{form.mode}-{form.window}"
)
def test_reading_as_it_is_used_gives_the_same_windows(recording: Path, form: WindowFormat) -> None:
    hot = HotPixels(max_pixels=5, min_observations=1, max_rate=0.2)
    form = replace(form, with_events=True, hot_pixels=hot)
    loaded, streamed = load_sequence(recording, form), StreamedSequence(recording, form)
    assert len(streamed) == len(loaded) and streamed.resolution == loaded.resolution
    for start, stop in [(0, 1), (1, len(loaded)), (len(loaded) // 2, len(loaded))]:
        assert same(streamed.cut(start, stop), loaded.cut(start, stop))
    assert same(streamed, loaded)
    # Filtered events are counted too: what it would take at most.
    assert loaded.nbytes <= streamed.nbytes + 8 * (len(loaded) + 1)
    assert streamed.nbytes <= loaded.nbytes + 9 * 1500


def test_a_file_written_again_is_read_again(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "x.h5", 1)
    first = load_sequence(path, VOXEL)
    other = load_sequence(write_recording(path, 2), VOXEL)
    assert not same(first, other)


def test_scenes_become_sequences(tmp_path: Path) -> None:
    path = scene_path(tmp_path / "cache", 4, (32, 48), 0.4)
    stamp = path.stat().st_mtime_ns
    assert scene_path(tmp_path / "cache", 4, (32, 48), 0.4).stat().st_mtime_ns == stamp
    sequence = load_sequence(path)
    assert sequence.counts.dtype == np.uint8 and sequence.counts.max() <= 127
    assert sequence.counts.shape == sequence.flow.shape == (len(sequence), 2, 32, 48)
    assert len(sequence) >= 10 and sequence.counts.any() and sequence.flow.any()
    again = load_sequence(write_scene(SceneConfig.random(4, (32, 48), 0.4), tmp_path / "x.h5"))
    assert same(sequence, again)


def test_a_recording_without_a_whole_window_is_refused(recording: Path) -> None:
    with pytest.raises(ValueError, match=r"recording\.h5: no whole window"):
        load_sequence(recording, WindowFormat("events", 100_000))


# --- chunks -----------------------------------------------------------------------------------

CROP = 9


def transformed(window: Events, slot: dict[str, Any]) -> Events:
    """The events of a whole window as the slot sees them, in crop coordinates."""
    x, y = window.xs - slot["left"], window.ys - slot["top"]
    if slot["flip_x"]:
        x = CROP - 1 - x
    if slot["flip_y"]:
        y = CROP - 1 - y
    ps = -window.ps if slot["swap_polarity"] else window.ps
    return Events(x.astype(np.int16), y.astype(np.int16), window.ts, ps)


def inside(events: Events) -> Events:
    keep = (events.xs >= 0) & (events.xs < CROP) & (events.ys >= 0) & (events.ys < CROP)
    return Events(events.xs[keep], events.ys[keep], events.ts[keep], events.ps[keep])


@pytest.mark.parametrize("form", [*EVERY_MODE[:4], VOXEL], ids=lambda form: form.mode)
def test_chunks_show_cropped_and_mirrored_events(recording: Path, form: WindowFormat) -> None:
    """Inputs, masks, flow and events of every slot, from the recording's own events."""
    form = replace(form, with_events=True)
    windows = windows_of(recording, form)
    sampler = SlotSampler([load_sequence(recording, form)], 30, 2, CROP, 3, with_events=True)
    kinds = set()
    for _ in range(3):
        chunk = sampler.next_chunk()
        assert chunk.events is not None and chunk.inputs.shape[2] == form.bins
        for index, slot in enumerate(sampler.state_dict()["slots"]):
            kinds.add((slot["flip_x"], slot["flip_y"], slot["swap_polarity"]))
            for step in range(2):
                window = windows[slot["position"] - 2 + step]
                quiet = len(window.events) <= form.quiet_events
                moved = transformed(Events.empty() if quiet else window.events, slot)
                seen = inside(moved)
                check_input(chunk.inputs[step, index].numpy(), window, slot, form, quiet)
                mask = event_mask(seen, (CROP, CROP))
                assert np.array_equal(chunk.mask[step, index, 0].numpy(), mask)
                t, y, x, p = (part[step, index].numpy() for part in chunk.events)
                real = p != 0
                assert real.sum() == len(seen) and not (t[~real].any() or x[~real].any())
                assert np.array_equal(y[real], seen.ys) and np.array_equal(x[real], seen.xs)
                assert np.array_equal(p[real], seen.ps)
                if len(seen):
                    first, last = window.events.ts[[0, -1]]
                    wanted = (seen.ts - first) / (last - first)
                    np.testing.assert_allclose(t[real], wanted, atol=1e-6)
    assert len(kinds) == 8


def check_input(
    got: npt.NDArray[np.float32],
    window: Window,
    slot: dict[str, Any],
    form: WindowFormat,
    quiet: bool,
) -> None:
    events = Events.empty() if quiet else window.events
    if form.encoding == "cnt":
        wanted = event_counts(inside(transformed(events, slot)), (CROP, CROP))
    else:
        # The bins of a crop are those of the whole window.
        swapped = replace(events, ps=-events.ps if slot["swap_polarity"] else events.ps)
        rows = slice(slot["top"], slot["top"] + CROP)
        columns = slice(slot["left"], slot["left"] + CROP)
        wanted = voxel_grid(swapped, form.num_bins, RESOLUTION)[:, rows, columns]
        wanted = wanted[:, :: -1 if slot["flip_y"] else 1, :: -1 if slot["flip_x"] else 1]
    assert np.array_equal(got, wanted)


def test_mirror_images_negate_flow(recording: Path) -> None:
    form = WindowFormat("gtflow_dt1", 1)
    sequence = load_sequence(recording, form)
    for horizontal in (0.0, 1.0):
        for vertical in (0.0, 1.0):
            augmentation = Augmentation(horizontal, vertical, 0.0)
            sampler = SlotSampler([sequence], 6, 3, CROP, 0, augmentation=augmentation)
            flow = sampler.next_chunk().flow.numpy()
            for index, slot in enumerate(sampler.state_dict()["slots"]):
                assert (slot["flip_x"], slot["flip_y"]) == (horizontal == 1, vertical == 1)
                rows = slice(slot["top"], slot["top"] + CROP)
                columns = slice(slot["left"], slot["left"] + CROP)
                wanted = sequence.flow[slot["position"] - 3 : slot["position"], :, rows, columns]
                wanted = wanted[..., :: -1 if vertical else 1, :: -1 if horizontal else 1].copy()
                wanted[:, 0] *= -1 if horizontal else 1
                wanted[:, 1] *= -1 if vertical else 1
                assert np.array_equal(flow[:, index], wanted, equal_nan=True)
                assert np.isfinite(wanted).any()


def test_choices_are_held_within_a_sequence(recording: Path) -> None:
    sampler = SlotSampler([load_sequence(recording, VOXEL)], 8, 2, CROP, 0)
    held = ("top", "left", "flip_x", "flip_y", "swap_polarity")
    before = sampler.state_dict()["slots"]
    redrawn = set()
    for _ in range(20):
        fresh = sampler.next_chunk().fresh
        after = sampler.state_dict()["slots"]
        for slot, (old, new) in enumerate(zip(before, after, strict=True)):
            if not fresh[slot]:
                assert all(old[key] == new[key] for key in held)
                assert new["position"] == old["position"] + 2
            else:
                redrawn.add(tuple(new[key] for key in held))
        before = after
    assert len(redrawn) > 10


def test_windows_without_events_make_empty_batches(tmp_path: Path) -> None:
    with EventFileWriter(tmp_path / "x.h5", RESOLUTION) as writer:
        place = np.zeros(1, np.int16)
        writer.append(Events(place, place, np.array([1.0]), np.ones(1, np.int8)))
    sequence = load_sequence(tmp_path / "x.h5", WindowFormat("time", 0.1, with_events=True))
    chunk = SlotSampler([sequence], 3, 4, CROP, 0, with_events=True).next_chunk()
    assert not chunk.inputs.any() and not chunk.mask.any() and bool(chunk.flow.isnan().all())
    assert chunk.events is not None
    assert all(part.shape == (4, 3, 1) and not part.any() for part in chunk.events)


def test_events_of_a_window_can_be_limited(recording: Path) -> None:
    sequence = load_sequence(recording, replace(VOXEL, encoding="cnt"))
    full, few = (
        SlotSampler([sequence], 5, 2, 14, 0, with_events=True, max_events=limit).next_chunk()
        for limit in (None, 7)
    )
    assert full.events is not None and few.events is not None
    assert torch.equal(full.inputs, few.inputs) and torch.equal(full.mask, few.mask)
    assert few.events.p.shape[2] == 7 and bool((few.events.p != 0).all())
    number = (full.events.p != 0).sum(2)
    for step in range(2):
        for slot in range(5):
            picked = torch.arange(7) * number[step, slot] // 7
            for whole, part in zip(full.events, few.events, strict=True):
                assert torch.equal(whole[step, slot, picked], part[step, slot])
    with pytest.raises(ValueError, match="at least one event per window"):
        SlotSampler([sequence], 5, 2, 14, 0, with_events=True, max_events=0)


def mixed(folder: Path) -> list[Sequence]:
    """With and without ground truth, in memory and in its file, of different sizes and lengths."""
    truth = load_sequence(
        write_recording(folder / "a.h5", 1), WindowFormat("gtflow_dt1", 1, with_events=True)
    )
    form = WindowFormat("events", 90, with_events=True)
    streamed = StreamedSequence(write_recording(folder / "b.h5", 2, 2500), form)
    return [truth, streamed]


def test_sequences_with_and_without_ground_truth_mix(tmp_path: Path) -> None:
    sampler = SlotSampler(mixed(tmp_path), 10, 3, CROP, 0, with_events=True)
    chunk = sampler.next_chunk()
    slots = sampler.state_dict()["slots"]
    assert {slot["sequence"] for slot in slots} == {0, 1}
    for index, slot in enumerate(slots):
        assert bool(chunk.flow[:, index].isfinite().any()) == (slot["sequence"] == 0)


def test_a_sampler_resumes_from_its_saved_state(tmp_path: Path) -> None:
    sequences = mixed(tmp_path)
    sampler = SlotSampler(sequences, 4, 3, 5, seed=1, with_events=True)
    for _ in range(5):
        sampler.next_chunk()
    torch.save(sampler.state_dict(), tmp_path / "sampler.pt")
    expected = [sampler.next_chunk() for _ in range(6)]
    state = torch.load(tmp_path / "sampler.pt", weights_only=True)
    other = SlotSampler(mixed(tmp_path), 4, 3, 5, seed=2, with_events=True)
    # Files written again with other stamps are still the same recordings.
    other.load_state_dict(state)
    for wanted in expected:
        got = other.next_chunk()
        assert wanted.events is not None and got.events is not None
        assert all(torch.equal(a, b) for a, b in zip(got.events, wanted.events, strict=True))
        assert torch.equal(got.inputs, wanted.inputs) and torch.equal(got.fresh, wanted.fresh)
        assert torch.equal(got.mask, wanted.mask)
        assert torch.equal(got.flow.nan_to_num(1e9), wanted.flow.nan_to_num(1e9))
    assert any(bool(wanted.fresh.any()) for wanted in expected)
    fewer = SlotSampler(sequences[:1], 4, 3, 5, seed=1)
    with pytest.raises(ValueError, match="training data is not what the run was started with"):
        fewer.load_state_dict(state)


def test_events_must_have_been_loaded(recording: Path) -> None:
    sequence = load_sequence(recording)
    with pytest.raises(ValueError, match=r"recording\.h5: was loaded without its events"):
        SlotSampler([sequence], 1, 1, CROP, 0, with_events=True)
