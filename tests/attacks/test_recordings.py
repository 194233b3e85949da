"""Hostile recordings: one clear error each, or a documented meaning; never a crash, never garbage.

Damage of columns, attributes and maps is in ``tests/calib_data``; here are files that point
elsewhere, claim more than they hold, or hold what is legal and strange.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from calib_data import EventFileWriter, Events, console
from calib_data.errors import DataError
from calib_data.hdf5 import EventFile
from calib_data.npz import MAX_CLIP_BYTES, NpzEvents
from calib_data.prepare import main as prepare
from calib_data.windows import MODES, count_windows, iterate_windows
from tests.calib_data import mvsec_files

RESOLUTION = (12, 16)
N = 400

Edit = Callable[[h5py.File], object]


def events(count: int = N, seed: int = 0) -> Events:
    rng = np.random.default_rng(seed)
    return Events(
        rng.integers(0, RESOLUTION[1], count).astype(np.int16),
        rng.integers(0, RESOLUTION[0], count).astype(np.int16),
        np.sort(rng.uniform(0, 1, count)),
        rng.choice([-1, 1], count).astype(np.int8),
    )


def write(path: Path, found: Events) -> Path:
    with EventFileWriter(path, RESOLUTION, t0=5.0) as writer:
        writer.append(found)
        for number in range(4):
            stamp = 0.2 + 0.2 * number
            writer.add_flow("dt1", stamp, np.full((2, *RESOLUTION), 0.5, np.float32))
            writer.add_flow("dt4", stamp, np.full((2, *RESOLUTION), 0.5, np.float32))
            writer.add_image(stamp, np.zeros(RESOLUTION, np.uint8))
    return path


def drive(path: Path) -> int:
    """Everything a reader does: all windows of every mode, all maps and images; events seen."""
    seen = 0
    with EventFile(path) as file:
        for mode in MODES:
            window = {"events": 50, "time": 0.1}.get(mode, 1.0)
            seen += sum(len(w.events) for w in iterate_windows(file, mode, window))
        for index in range(len(file.image_times())):
            file.read_image(index)
    return seen


@pytest.fixture
def spoil(tmp_path: Path) -> Callable[[Edit], Path]:
    """spoil(edit) -> a recording with one edit, beside a whole one, ``other.h5``."""
    write(tmp_path / "other.h5", events(seed=1))
    path = write(tmp_path / "recording.h5", events())

    def apply(edit: Edit) -> Path:
        with h5py.File(path, "r+") as file:
            edit(file)
        return path

    return apply


def test_a_sound_recording_is_driven(spoil: Callable[[Edit], Path]) -> None:
    assert drive(spoil(lambda file: None)) > 4 * N / 2


# --- values that lie elsewhere --------------------------------------------------------------------


def linked(name: str, link: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return edit


def stored_outside(file: h5py.File) -> None:
    del file["events/xs"]
    file.create_dataset("events/xs", (N,), np.int16, external=[("/etc/passwd", 0, 2 * N)])


def virtual(file: h5py.File) -> None:
    del file["events/xs"]
    layout = h5py.VirtualLayout((N,), np.int16)
    layout[:] = h5py.VirtualSource("other.h5", "events/xs", (N,))
    file.create_virtual_dataset("events/xs", layout)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (linked("events", h5py.ExternalLink("other.h5", "/events")), "in the file 'other.h5'"),
        (linked("events", h5py.ExternalLink("/etc/passwd", "/")), "in the file '/etc/passwd'"),
        (linked("events/ts", h5py.ExternalLink("other.h5", "/events/ts")), "'events/ts' is a link"),
        (linked("events/ts", h5py.SoftLink("/events/xs")), "is a link to '/events/xs'"),
        (linked("events", h5py.SoftLink("/events")), "is a link to '/events'"),
        (linked("flow_dt1", h5py.ExternalLink("other.h5", "/flow_dt1")), "in the file 'other.h5'"),
        (linked("images", h5py.ExternalLink("absent.h5", "/")), "in the file 'absent.h5'"),
        (
            linked("flow_dt1/flow000000002", h5py.ExternalLink("other.h5", "/flow_dt1")),
            "in the file 'other.h5'",
        ),
        (stored_outside, "/events/xs keeps its values in other files"),
        (virtual, "/events/xs keeps its values in other files"),
    ],
)  # fmt: skip
def test_nothing_outside_the_file_is_read(
    spoil: Callable[[Edit], Path], edit: Edit, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        drive(spoil(edit))


def test_sources_of_prepare_are_no_exception(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = mvsec_files.write(tmp_path / "in", "indoor", mvsec_files.camera())
    data = files.root / "indoor_data.hdf5"
    (tmp_path / "secret.hdf5").write_bytes(data.read_bytes())
    with h5py.File(data, "r+") as file:
        del file["davis/left/events"]
        file["davis/left/events"] = h5py.ExternalLink("../secret.hdf5", "/davis/left/events")
    arguments = ["mvsec", str(files.root), str(tmp_path / "out"), "--crop", "32", "48"]
    assert console.run(prepare, arguments) != 0
    said = capsys.readouterr().err
    assert "is a link to '/davis/left/events' in the file '../secret.hdf5'" in said
    assert said.count("\n") == 1


# --- more than there is ---------------------------------------------------------------------------


def sparse(file: h5py.File) -> None:
    """A trillion events, none of them written."""
    count = 10**12
    for name in ("xs", "ys", "ts", "ps"):
        kind = file[f"events/{name}"].dtype
        del file[f"events/{name}"]
        file.create_dataset(f"events/{name}", (count,), kind, chunks=(65536,))


def huge_map(file: h5py.File) -> None:
    del file["flow_dt1/flow000000001"]
    shape = (2, 1 << 20, 1 << 20)
    data = file.create_dataset("flow_dt1/flow000000001", shape, np.float32, chunks=(1, 512, 512))
    data.attrs["timestamp"] = 5.4


def map_of_another_shape(file: h5py.File) -> None:
    del file["flow_dt1/flow000000001"]
    file["flow_dt1/flow000000001"] = np.zeros((2, 700, 700), np.float32)
    file["flow_dt1/flow000000001"].attrs["timestamp"] = 5.4


def huge_chunk(file: h5py.File) -> None:
    """Some kilobytes that become 800 MiB for the first event asked for."""
    del file["events/ts"]
    count = 100 << 20
    file.create_dataset("events/ts", (count,), np.float64, chunks=(count,), compression="gzip")


def empty_space(file: h5py.File) -> None:
    del file["events/ts"]
    file["events/ts"] = h5py.Empty("f8")


def compound(file: h5py.File) -> None:
    del file["events/ts"]
    file["events/ts"] = np.zeros(N, [("seconds", "f8"), ("more", "f8")])


def text(file: h5py.File) -> None:
    del file["events/ts"]
    file.create_dataset("events/ts", data=["1.0"] * N, dtype=h5py.string_dtype())


def group_instead(file: h5py.File) -> None:
    del file["events/ts"]
    file.create_group("events/ts")


def dataset_instead(file: h5py.File) -> None:
    del file["events"]
    file["events"] = np.zeros(5)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (sparse, r"/events/xs claims 2,000,000,000,000 bytes of values, but the file holds 0"),
        (huge_map, r"/flow_dt1/flow000000001 claims 8,796,093,022,208 bytes"),
        (map_of_another_shape, r"has shape \(2, 700, 700\), expected \(2, 12, 16\)"),
        (huge_chunk, "has chunks of .* more than 256 MiB each"),
        (empty_space, "events/ts"),
        (compound, "events/ts is"),
        (text, "events/ts is"),
        (group_instead, "no dataset 'events/ts'"),
        (dataset_instead, "no dataset 'events/xs'"),
        (lambda file: file.attrs.modify("sensor_resolution", [1 << 40, 1 << 40]), "resolution"),
        (lambda file: file.attrs.modify("sensor_resolution", [32767, 32767]), "resolution"),
        (lambda file: file.attrs.modify("t0", 1e308), ""),
        (lambda file: file.attrs.modify("duration", float("inf")), "'duration'"),
    ],
)
def test_claims_are_held_against_the_file(
    spoil: Callable[[Edit], Path], edit: Edit, message: str
) -> None:
    path = spoil(edit)
    if not message:
        drive(path)
        return
    with pytest.raises(DataError, match=message):
        drive(path)


def test_memory_stays_small(spoil: Callable[[Edit], Path]) -> None:
    """The same under a limit of memory, where a needless allocation would be an error."""
    path = spoil(sparse)
    done = subprocess.run(
        [sys.executable, "-m", "calib_data.inspect", str(path)],
        capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30)),
    )  # fmt: skip
    assert done.returncode != 0
    assert "but the file holds" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def zipped(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


def test_archives_that_unpack_to_more_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    block = bytes(1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("xs.npy", "w", force_zip64=True) as entry:
            for _ in range(64):
                entry.write(block)
        # What the directory says of the size counts, before anything is unpacked.
        archive.getinfo("xs.npy").file_size = MAX_CLIP_BYTES + 1
    with pytest.raises(DataError, match="more than a clip's"):
        NpzEvents(path)


def test_arrays_that_claim_more_are_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(DataError, match=r"xs|damaged|readable"):
        NpzEvents(zipped(tmp_path / "claim.npz", "xs.npy", content))


# --- legal and strange ----------------------------------------------------------------------------


def test_no_event_and_one(tmp_path: Path) -> None:
    assert drive(write(tmp_path / "none.h5", Events.empty())) == 0
    one = Events(np.int16([3]), np.int16([4]), np.float64([0.3]), np.int8([1]))
    # In windows of the two modes of ground truth and between images, but in none of 50 events, and
    # windows of time end where the last event is.
    assert drive(write(tmp_path / "one.h5", one)) == 3


def test_all_events_at_one_pixel(tmp_path: Path) -> None:
    found = events()
    same = Events(np.zeros_like(found.xs), np.zeros_like(found.ys), found.ts, found.ps)
    assert drive(write(tmp_path / "pixel.h5", same)) == drive(write(tmp_path / "many.h5", found))


def test_all_events_at_one_time(tmp_path: Path) -> None:
    found = events()
    now = Events(found.xs, found.ys, np.full(N, 0.5), found.ps)
    assert drive(write(tmp_path / "now.h5", now)) > N


@pytest.mark.parametrize("jump", [1e6, 1e12])
def test_a_clock_that_jumps_ahead_is_told(tmp_path: Path, jump: float) -> None:
    found = events()
    found.ts[N // 2 :] += jump
    with EventFile(write(tmp_path / "jump.h5", found)) as file:
        with pytest.raises(DataError, match="its clock jumps"):
            count_windows(file, "time", 0.1)
        assert count_windows(file, "events", 50) == N // 50


def test_a_pause_is_a_pause(tmp_path: Path) -> None:
    found = events()
    found.ts[N // 2 :] += 3600
    with EventFile(write(tmp_path / "pause.h5", found)) as file:
        assert count_windows(file, "time", 0.1) == 36_009
