"""The same events as files of other formats, written from the formats' public descriptions."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flatbuffers
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from calib_data import Events

SIZE = (480, 640)


def micros(made: Events) -> NDArray[np.int64]:
    """Times in whole microseconds."""
    return np.rint(made.ts * 1e6).astype(np.int64)


def lines(made: Events) -> str:
    """RPG's text: seconds x y polarity."""
    rows = zip(made.ts, made.xs, made.ys, made.ps, strict=True)
    return "# t x y p\n" + "".join(f"{t:.6f} {x} {y} {int(p > 0)}\n" for t, x, y, p in rows)


def write_text(path: Path, made: Events) -> None:
    path.write_text(lines(made))


def write_dsec(path: Path, made: Events, offset: int = 2_000_000) -> None:
    """DSEC's events.h5: microseconds after t_offset, and where each millisecond begins."""
    after = micros(made) - offset
    with h5py.File(path, "w") as file:
        file["events/x"], file["events/y"] = made.xs.astype("u2"), made.ys.astype("u2")
        file["events/p"] = (made.ps > 0).astype("u1")
        file["events/t"] = after.astype("u4")
        file["t_offset"] = np.int64(offset)
        starts = 1000 * np.arange(after[-1] // 1000 + 2)
        file["ms_to_idx"] = np.searchsorted(after, starts).astype("u8")


def write_png16(path: Path, channels: NDArray[np.uint16]) -> None:
    """A PNG file [H, W, 3] of 16 bits; rows are filtered by each of PNG's rules in turn."""
    rows = channels.astype(">u2").view(np.uint8).reshape(len(channels), -1).astype(np.int64)
    left = np.pad(rows, ((0, 0), (6, 0)))[:, :-6]
    above, corner = np.pad(rows, ((1, 0), (0, 0)))[:-1], np.pad(left, ((1, 0), (0, 0)))[:-1]
    guess = left + above - corner
    order = np.stack([np.abs(guess - near) for near in (left, above, corner)])
    paeth = np.choose(order.argmin(axis=0), [left, above, corner])
    rules = [np.zeros_like(rows), left, above, (left + above) // 2, paeth]
    lines = b"".join(
        bytes([k % 5]) + ((rows[k] - rules[k % 5][k]) & 255).astype(np.uint8).tobytes()
        for k in range(len(rows))
    )
    head = struct.pack(">IIBBBBB", channels.shape[1], channels.shape[0], 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


# --- Prophesee ------------------------------------------------------------------------------------


def evt3_words(made: Events) -> bytes:
    """The stream of a camera: time words where the time changes, triggers in between."""
    words, high = [], -1
    for x, y, t, p in zip(made.xs, made.ys, micros(made) & 0xFFFFFF, made.ps, strict=True):
        if high != int(t) >> 12:
            high = int(t) >> 12
            words += [0x8000 | high, 0xA001]
        words += [0x6000 | (int(t) & 0xFFF), int(y), 0x2000 | ((p > 0) << 11) | int(x)]
    return np.array(words, "<u2").tobytes()


def write_evt3(path: Path, made: Events) -> None:
    header = b"% evt 3.0\n% format EVT3;height=480;width=640\n% end\n"
    path.write_bytes(header + evt3_words(made))


def write_evt2(path: Path, made: Events) -> None:
    """32-bit words: kind (4 bits: 0 darker, 1 brighter, 8 high time), then the time's low 6 bits, x
    and y (11 bits each), or the time's high 28 bits. An external trigger (10) in between."""
    words, high = [], -1
    for x, y, t, p in zip(made.xs, made.ys, micros(made), made.ps, strict=True):
        if high != int(t) >> 6:
            high = int(t) >> 6
            words += [0x80000000 | high, 0xA0000100]
        words.append(int(p > 0) << 28 | (int(t) & 63) << 22 | int(x) << 11 | int(y))
    header = b"% date 2026-01-01 12:00:00\n% evt 2.0\n% geometry 640x480\n"
    path.write_bytes(header + np.array(words, "<u4").tobytes())


def write_dat(path: Path, made: Events) -> None:
    """8 bytes per event: microseconds, then polarity (bit 28), y (bits 14 on) and x (bits 0 on)."""
    rows = np.zeros(len(made), [("t", "<u4"), ("word", "<u4")])
    rows["t"] = micros(made)
    rows["word"] = (made.ps > 0).astype("u4") << 28 | made.ys.astype("u4") << 14 | made.xs
    header = b"% Data file containing CD events.\n% Version 2\n% Height 480\n% Width 640\n"
    path.write_bytes(header + bytes([0x0C, 8]) + rows.tobytes())


# --- AEDAT4 ---------------------------------------------------------------------------------------

_EVENT = np.dtype(
    {"names": ["t", "x", "y", "on"], "formats": ["<i8", "<i2", "<i2", "?"], "itemsize": 16}
)
_COMPRESSIONS = ("none", "lz4", "lz4-high", "zstd", "zstd-high")
_STREAM = """<node name="{number}" path="/mainloop/Recorder/outInfo/{number}/">
<attr key="compression" type="string">{compression}</attr>
<attr key="typeIdentifier" type="string">{kind}</attr>
<node name="info" path="/mainloop/Recorder/outInfo/{number}/info/">
<attr key="sizeX" type="int">{width}</attr><attr key="sizeY" type="int">{height}</attr>
</node></node>"""


def write_aedat4(
    path: Path,
    made: Events,
    compression: str = "none",
    images: tuple[tuple[int, NDArray[np.uint8]], ...] = (),
) -> None:
    """iniVation's AEDAT 4.0: a described header, then packets of events and frames.

    compression: of the packets, one of "none", "lz4", "lz4-high", "zstd", "zstd-high". images:
    microseconds and uint8 [H, W].
    """
    packets = b"".join(
        _packet(0, _event_packet(part), compression)
        for part in np.array_split(_event_rows(made), 7)
    )
    packets += b"".join(_packet(1, _frame(t, image), compression) for t, image in images)
    size = len(_io_header(compression, 1))
    header = _io_header(compression, 14 + size + len(packets))
    path.write_bytes(b"#!AER-DAT4.0\r\n" + header + packets)


def _event_rows(made: Events) -> NDArray[np.void]:
    rows = np.zeros(len(made), _EVENT)
    rows["t"], rows["x"], rows["y"], rows["on"] = micros(made), made.xs, made.ys, made.ps > 0
    return rows


def _io_header(compression: str, table: int) -> bytes:
    """compression, place of the table after the packets, description of the streams."""
    streams = "".join(
        _STREAM.format(
            number=number, kind=kind, compression=compression, width=SIZE[1], height=SIZE[0]
        )
        for number, kind in enumerate(("EVTS", "FRME"))
    )
    text = f'<dv version="2.0"><node name="outInfo" path="/">{streams}</node></dv>'
    builder = flatbuffers.Builder()
    description = builder.CreateString(text)
    builder.StartObject(3)
    builder.PrependInt32Slot(0, _COMPRESSIONS.index(compression), 0)
    builder.PrependInt64Slot(1, table, -1)
    builder.PrependUOffsetTRelativeSlot(2, description, 0)
    builder.FinishSizePrefixed(builder.EndObject(), b"IOHE")
    return bytes(builder.Output())


def _event_packet(rows: NDArray[np.void]) -> bytes:
    builder = flatbuffers.Builder()
    builder.StartVector(_EVENT.itemsize, len(rows), 8)
    for row in rows[::-1]:
        builder.Prep(8, _EVENT.itemsize)
        builder.Pad(3)
        builder.PrependBool(bool(row["on"]))
        builder.PrependInt16(int(row["y"]))
        builder.PrependInt16(int(row["x"]))
        builder.PrependInt64(int(row["t"]))
    elements = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, elements, 0)
    builder.FinishSizePrefixed(builder.EndObject(), b"EVTS")
    return bytes(builder.Output())


def _frame(t: int, image: NDArray[np.uint8]) -> bytes:
    builder = flatbuffers.Builder()
    pixels = builder.CreateByteVector(image.tobytes())
    builder.StartObject(11)
    for slot in range(5):
        builder.PrependInt64Slot(slot, t, 0)
    builder.PrependInt16Slot(6, image.shape[1], 0)
    builder.PrependInt16Slot(7, image.shape[0], 0)
    builder.PrependUOffsetTRelativeSlot(10, pixels, 0)
    builder.FinishSizePrefixed(builder.EndObject(), b"FRME")
    return bytes(builder.Output())


def _packet(stream: int, data: bytes, compression: str) -> bytes:
    if compression.startswith("lz4"):
        data = pytest.importorskip("lz4.frame").compress(data)
    elif compression.startswith("zstd"):
        data = pytest.importorskip("backports.zstd").compress(data)
    return struct.pack("<ii", stream, len(data)) + data


# --- ROS ------------------------------------------------------------------------------------------

_DVS = {
    "dvs_msgs/msg/Event": "uint16 x\nuint16 y\ntime ts\nbool polarity\n",
    "dvs_msgs/msg/EventArray": "Header header\nuint32 height\nuint32 width\nEvent[] events\n",
}
Images = tuple[NDArray[np.float64], NDArray[Any]]


def write_bag(
    path: Path,
    events: Mapping[str, Events],
    images: Mapping[str, Images],
    size: tuple[int, int] = SIZE,
    *,
    poses: Mapping[str, NDArray[np.float64]] | None = None,
    ros2: str | None = None,
) -> None:
    """A bag of event arrays, pictures (uint8: mono8, float32: 32FC1) and poses, by topic.

    images: stamps and arrays [M, H, W]. poses: their stamps. ros2: None for a ROS 1 file, else how
    the folder of ROS 2 stores messages: "sqlite3" or "mcap".
    """
    store = _typestore(ros2)
    kinds = store.types
    messages: list[tuple[float, str, Any]] = []
    for topic, made in events.items():
        for part in np.array_split(np.arange(len(made)), 7):
            messages.append((made.ts[part[-1]], topic, _event_array(store, made, part, size, ros2)))
    for topic, (stamps, pictures) in images.items():
        messages += [
            (stamp, topic, _picture(store, stamp, picture, ros2))
            for stamp, picture in zip(stamps, pictures, strict=True)
        ]
    for topic, stamps in (poses or {}).items():
        pose = kinds["geometry_msgs/msg/Pose"](
            kinds["geometry_msgs/msg/Point"](0.0, 0.0, 0.0),
            kinds["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
        )
        stamped = kinds["geometry_msgs/msg/PoseStamped"]
        messages += [(t, topic, stamped(_header(store, t, ros2), pose)) for t in stamps]
    _write_messages(path, store, sorted(messages, key=lambda message: message[0]), ros2)


def _typestore(ros2: str | None) -> Any:
    typesys = pytest.importorskip("rosbags.typesys")
    store = typesys.get_typestore(
        typesys.Stores.ROS2_HUMBLE if ros2 else typesys.Stores.ROS1_NOETIC
    )
    for name, text in _DVS.items():
        if ros2:
            text = text.replace("time ts", "builtin_interfaces/Time ts")
            text = text.replace("Header header", "std_msgs/Header header")
        store.register(typesys.get_types_from_msg(text, name))
    return store


def _write_messages(path: Path, store: Any, messages: list[Any], ros2: str | None) -> None:
    if ros2:
        module = pytest.importorskip("rosbags.rosbag2")
        plugin = module.StoragePlugin[ros2.upper()]
        writer, serialize = module.Writer(path, version=9, storage_plugin=plugin), "serialize_cdr"
    else:
        writer = pytest.importorskip("rosbags.rosbag1").Writer(path)
        serialize = "serialize_ros1"
    with writer as bag:
        topics: dict[str, Any] = {}
        for stamp, topic, message in messages:
            kind = message.__msgtype__
            if topic not in topics:
                topics[topic] = bag.add_connection(topic, kind, typestore=store)
            data = getattr(store, serialize)(message, kind)
            bag.write(topics[topic], round(stamp * 1e9), data)


def _time(store: Any, seconds: float) -> Any:
    whole = int(seconds)
    return store.types["builtin_interfaces/msg/Time"](whole, round((seconds - whole) * 1e9))


def _header(store: Any, seconds: float, ros2: str | None) -> Any:
    number = () if ros2 else (0,)
    return store.types["std_msgs/msg/Header"](*number, _time(store, seconds), "camera")


def _event_array(
    store: Any, made: Events, part: NDArray[np.intp], size: tuple[int, int], ros2: str | None
) -> Any:
    event = store.types["dvs_msgs/msg/Event"]
    events = [
        event(int(made.xs[k]), int(made.ys[k]), _time(store, float(made.ts[k])), made.ps[k] > 0)
        for k in part
    ]
    header = _header(store, float(made.ts[part[0]]), ros2)
    return store.types["dvs_msgs/msg/EventArray"](header, *size, events)


def _picture(store: Any, stamp: float, picture: NDArray[Any], ros2: str | None) -> Any:
    encoding = "mono8" if picture.dtype == np.uint8 else "32FC1"
    height, width = picture.shape
    return store.types["sensor_msgs/msg/Image"](
        _header(store, stamp, ros2),
        height,
        width,
        encoding,
        0,
        width * picture.itemsize,
        np.frombuffer(picture.tobytes(), np.uint8),
    )
