"""Films of driven windows: frames by their contents, files by what is read back from them."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_data import EventFile, console
from runtime import PictureError, StatefulSession, evaluate, video
from runtime.sequence import Drive, drive
from runtime.snapshots import Scales, Snapshot, common_scales, snapshot


def plain(shape: tuple[int, int], value: int) -> np.ndarray[Any, Any]:
    return np.full((*shape, 3), value, np.uint8)


def shot(networks: int, truth: bool = True) -> Snapshot:
    counts = np.zeros((2, 8, 9), np.uint16)
    counts[0, 2:5], counts[1, 5:] = 1, 3
    flow = np.zeros((2, 8, 9), np.float32)
    flow[0] = 2.0
    names = ["float", "int8", "third"][:networks]
    flows = {name: flow * np.float32(number) for number, name in enumerate(names)}
    return Snapshot(0, 0.5, counts, flow if truth else None, flows, {}, {}, {})


def test_frames_are_enlarged_and_even() -> None:
    frame = video.tile([plain((8, 9), 10), plain((8, 9), 200)])
    # 192 pixels at least, by a whole factor: 24 times 8 x 9, two of them and a gap of 4.
    assert frame.shape == (192, 2 * 216 + video.GAP, 3)
    assert (frame[:, :216] == 10).all() and (frame[:, 216:220] == 255).all()
    assert (frame[:, 220:] == 200).all()
    odd = video.tile([plain((201, 203), 0)])
    assert odd.shape == (202, 204, 3) and (odd[201] == 255).all() and (odd[:, 203] == 255).all()
    for images in ([], [plain((8, 9), 0), plain((9, 8), 0)]):
        with pytest.raises(PictureError, match="one size"):
            video.tile(images)


@pytest.mark.parametrize(
    ("networks", "truth", "titles"),
    [
        (1, True, ["events", "ground truth", "flow of float", "error of float"]),
        (2, True, ["events", "ground truth", "flow of float", "flow of int8", "error of int8"]),
        (1, False, ["events", "flow of float"]),
        (2, False, ["events", "flow of float", "flow of int8", "difference of float and int8"]),
    ],
)
def test_what_a_frame_shows(networks: int, truth: bool, titles: list[str]) -> None:
    item = shot(networks, truth)
    images = video.film_images(item, common_scales([item]))
    assert list(images) == titles


def test_frame_is_the_golden_one() -> None:
    images = video.film_images(shot(2), Scales(2.0, 2.0, 1.0, 3))
    frame = video.tile(list(images.values()))
    assert frame.shape == (192, 5 * 216 + 4 * video.GAP, 3)
    assert hashlib.sha256(frame.tobytes()).hexdigest()[:16] == "12742739a213a6c0"


def test_titles_stand_over_their_images() -> None:
    frame = video.tile([plain((8, 9), 128)] * 2)
    image = video.titled(frame, ["left", "a title much too long for the room it has" * 3], "1.00 s")
    height = image.shape[0] - frame.shape[0]
    assert height % 2 == 0 and np.array_equal(image[height:], frame)
    ink = (image[:height] < 128).any(axis=(0, 2))
    assert ink[:30].any() and not ink[60:216].any() and ink[222:].any()
    other = video.titled(frame, ["left", ""], "2.00 s")
    assert np.array_equal(other[:height, :200], image[:height, :200])


def film(recording: Path, make_file: Any, *options: object) -> int:
    arguments = [make_file(), "--data", recording, "--no-library", *options]
    return console.run(evaluate.main, [str(argument) for argument in arguments])


def test_gif_holds_every_scored_window(recording: Path, make_file: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "out.gif"
    assert film(recording, make_file, "--gif", path, "--frame-rate", 10) == 0
    with image.open(path) as found:
        assert found.n_frames == 6 and found.info["duration"] == 100 and found.info["loop"] == 0
        # 12 x 16 pixels, 16 times as large: events, ground truth, flow and error.
        assert found.size == (4 * 256 + 3 * video.GAP, 192 + 18)
        seen = []
        for number in range(6):
            found.seek(number)
            seen.append(np.asarray(found.convert("RGB")))
    assert all(np.ptp(frame) == 255 for frame in seen)
    assert not np.array_equal(seen[0][18:], seen[1][18:])
    # Flow (2, -1) px everywhere but in the first two rows: one colour below, white above.
    truth = seen[3][18:, 256 + video.GAP : 2 * 256 + video.GAP].astype(int)
    assert np.abs(truth[:32] - 255).max() < 8
    assert np.ptp(truth[40:], axis=(0, 1)).max() < 8 and truth[40:, :, 1].max() < 160


def test_mp4_holds_every_scored_window(recording: Path, make_file: Any, tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="extra 'video' is not installed")
    path = tmp_path / "out.mp4"
    assert film(recording, make_file, "--video", path, "--window", 0.5) == 0
    reader = ffmpeg.read_frames(str(path))
    facts = next(reader)
    frames = [np.frombuffer(data, np.uint8).reshape(210, -1, 3) for data in reader]
    # Twelve windows, of which every other one ends an interval and is scored.
    assert len(frames) == 6 and facts["fps"] == 20 and facts["codec"].startswith("h264")
    assert facts["size"] == (4 * 256 + 3 * video.GAP, 210)
    expected = expected_frame(recording, make_file, tmp_path, 1)
    difference = np.abs(frames[0][18:].astype(int) - expected)
    assert difference.mean() < 8
    assert sorted(p.name for p in tmp_path.glob(".*")) == []


def expected_frame(recording: Path, make_file: Any, tmp_path: Path, index: int) -> Any:
    """The frame of a window, without titles, from the arrays."""
    with EventFile(recording) as file:
        runners = {"model.int8.onnx": StatefulSession(make_file(), library="never")}
        shots = [
            snapshot(record, runners, file.resolution)
            for record in drive(file, runners, Drive(window=0.5))
        ]
    scored = [item for item in shots if item is not None and item.ground_truth is not None]
    found = common_scales(scored)
    scales = Scales(found.flow * 1.25, found.error * 1.25, found.difference * 1.25, found.events)
    images = video.film_images(next(s for s in scored if s.index == index), scales)
    return video.tile(list(images.values())).astype(int)


class Frames:
    """A writer that keeps what it gets."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.closed: list[bool] = []

    def add(self, frame: Any) -> None:
        self.frames.append(frame)

    def close(self, failed: bool = False) -> None:
        self.closed.append(failed)


def test_film_draws_while_it_runs(recording: Path, make_file: Any) -> None:
    writer, held = Frames(), []
    with EventFile(recording) as file:
        runners = {"net": StatefulSession(make_file(), library="never")}
        with video.Film(writer, file.resolution, runners, ground_truth=False) as made:
            for record in drive(file, runners, Drive("events", 20)):
                made(record)
                held.append(record.window.index + 1 - len(writer.frames))
    assert len(writer.frames) == len(held) == 36 and writer.closed == [False]
    # The first windows wait until the scales are known; none waits afterwards.
    assert max(held) == 11 and set(held[11:]) == {0}
    assert len({frame.shape for frame in writer.frames}) == 1


def test_a_scale_that_is_given_holds(recording: Path, make_file: Any) -> None:
    shown = []
    with EventFile(recording) as file:
        runners = {"net": StatefulSession(make_file(), library="never")}
        for scale in (4.0, 400.0):
            writer = Frames()
            options: Any = {"ground_truth": True, "max_magnitude": scale}
            with video.Film(writer, file.resolution, runners, **options) as made:
                for record in drive(file, runners, Drive()):
                    made(record)
            shown.append(writer.frames[-1][18:, 256 + video.GAP : 2 * 256 + video.GAP])
    strong, pale = (float(255 - image[40:].min()) for image in shown)
    assert strong > 100 > 5 > pale >= 0


def test_long_gifs_are_thinned_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setattr(video, "GIF_FRAMES", 3)
    writer = video.GifWriter(tmp_path / "x.gif", 50)
    for number in range(20):
        writer.add(plain((4, 4), 10 * number))
    writer.close()
    with image.open(tmp_path / "x.gif") as found:
        assert found.n_frames == 5 and found.info["duration"] == 80
        shades = []
        for number in range(5):
            found.seek(number)
            shades.append(np.asarray(found.convert("RGB"))[0, 0, 0])
    assert shades == [0, 40, 80, 120, 160]


def test_nothing_is_left_of_a_film_that_failed(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="extra 'video' is not installed")
    runners: dict[str, Any] = {}
    for writer in (
        video.Mp4Writer(tmp_path / "x.mp4", 20),
        video.GifWriter(tmp_path / "x.gif", 20),
    ):
        with (
            pytest.raises(KeyError, match="stop"),
            video.Film(writer, (8, 9), runners, ground_truth=True),
        ):
            writer.add(plain((192, 192), 3))
            raise KeyError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_film_of_nothing_is_a_note(
    recording: Path, make_file: Any, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "x.gif"
    assert film(recording, make_file, "--gif", out, "--warmup", 6) == 0
    assert capsys.readouterr().err == f"note: {out}: not written, no window could be shown\n"
    assert not out.exists()


def test_without_ffmpeg_there_is_one_clear_error(
    recording: Path, make_file: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert film(recording, make_file, "--video", tmp_path / "x.mp4") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install 'spikedeploy[video]'" in error


def test_each_of_several_sequences_has_its_own_film(
    recording: Path, make_file: Any, tmp_path: Path
) -> None:
    from runtime.picture_outputs import PictureOutputs

    arguments = evaluate._parser().parse_args(
        ["m.onnx", "--data", "d.h5", "--gif", str(tmp_path / "out.gif")]
    )
    outputs = PictureOutputs(arguments, {}, several=True)
    with EventFile(recording) as file:
        runners = {"net": StatefulSession(make_file(), library="never")}
        for name in ("indoor 1", "../indoor/2"):
            with outputs.sequence(name, file.resolution, runners, "gtflow_dt1") as observe:
                for record in drive(file, runners, Drive(limit=2)):
                    observe(record)
    names = sorted(path.name for path in tmp_path.glob("*.gif"))
    assert names == ["out-.._indoor_2.gif", "out-indoor_1.gif"]


def test_sequences_of_one_name_have_films_of_their_own(
    recording: Path, make_file: Any, tmp_path: Path
) -> None:
    pytest.importorskip("PIL")
    other = tmp_path / "other" / recording.name
    other.parent.mkdir()
    other.write_bytes(recording.read_bytes())
    films = tmp_path / "films"
    films.mkdir()
    model = make_file(resolution=None)
    for batch in (1, 2):
        given = ["--data", recording, other, "--gif", films / "x.gif", "--batch", batch]
        assert console.run(evaluate.main, [str(a) for a in [model, *given]]) == 0
        names = sorted(path.name for path in films.iterdir())
        assert names == ["x-recording-2.gif", "x-recording.gif"]
