"""ROS bags: ``dvs_msgs/EventArray`` of DAVIS drivers and ``EventPacket`` with EVT3 data.

ROS 1 bags are files, ROS 2 bags folders with a ``metadata.yaml``. Read with the pure-Python package
``rosbags``; no ROS is needed. Event arrays are taken from the raw message, which is a hundred times
faster than building an object per event.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.prepare import evt3
from calib_data.prepare.recording import (
    BLOCK,
    Block,
    Found,
    Recording,
    demand_resolution,
    each,
    reader,
)

EVENT_ARRAYS = ("dvs_msgs/msg/EventArray", "prophesee_event_msgs/msg/EventArray")
EVENT_PACKETS = (
    "event_camera_msgs/msg/EventPacket",
    "event_array_msgs/msg/EventArray",
)
IMAGE = "sensor_msgs/msg/Image"

_ROS2_DEFINITIONS = "ROS2_HUMBLE"
"""Standard message types for ROS 2 bags that carry no definitions of their own."""

_EVENT = np.dtype(
    [("x", "<u2"), ("y", "<u2"), ("secs", "<u4"), ("nsecs", "<u4"), ("polarity", "u1")]
)
Decoded = TypeVar("Decoded")
_LUMINANCE = {"rgb8": (0.299, 0.587, 0.114), "bgr8": (0.114, 0.587, 0.299)}


def find(
    root: Path,
    *,
    resolution: tuple[int, int] | None = None,
    topic: str | None = None,
    **_: object,
) -> list[Found]:
    """Every bag at or below ``root``: ROS 1 files (.bag) and ROS 2 folders, in order of names.

    topic: of the events, where a bag has several; images are taken from the topic nearest to it.
    """
    return each(bags(root, "*.bag", "*"), lambda path: _recording(path, resolution, topic))


def bags(root: Path, files: str, folders: str) -> list[Path]:
    """``root`` if it is a bag itself, else the bags below: ROS 1 ``files``, ROS 2 ``folders``."""
    if root.is_file() or (root / "metadata.yaml").is_file():
        return [root]
    found = [path for path in root.rglob(files) if path.is_file()]
    found += [path.parent for path in root.rglob(f"{folders}/metadata.yaml")]
    return sorted(found)


def dvs_recording(
    name: str,
    path: Path,
    *,
    events_topic: str,
    images_topic: str | None,
    resolution: tuple[int, int],
) -> Recording:
    """A bag of ``dvs_msgs/EventArray``: events and images of the named topics.

    resolution: (H, W), where the messages of events do not tell it. Raises DataError when the bag
    has no such topic of events; images may be missing.
    """
    topics = _topics(path)
    if topics.get(events_topic) not in EVENT_ARRAYS:
        listed = ", ".join(f"{name} ({kind})" for name, kind in sorted(topics.items()))
        raise DataError(f"{path}: no topic {events_topic} of event arrays; it has: {listed}")
    size = _size(path, events_topic) or resolution
    base = Recording(name, _files(path), size, lambda: _arrays(path, events_topic))
    if images_topic is None or topics.get(images_topic) != IMAGE:
        return base
    return replace(
        base,
        images=lambda: _images(path, images_topic),
        image_times=lambda: _image_times(path, images_topic),
    )


def _recording(path: Path, resolution: tuple[int, int] | None, topic: str | None) -> Recording:
    topics = _topics(path)
    chosen = _choose(path, topics, topic)
    found = _size(path, chosen)
    size = demand_resolution(path, found, resolution)
    name = path.name if path.is_dir() else path.stem
    if topics[chosen] in EVENT_PACKETS:
        return Recording(name, _files(path), size, lambda: _packets(path, chosen))
    prefix = chosen.rpartition("/")[0]
    images = [
        other
        for other, kind in sorted(topics.items())
        if kind == IMAGE and other.rpartition("/")[0] == prefix
    ]
    return dvs_recording(
        name,
        path,
        events_topic=chosen,
        images_topic=images[0] if images else None,
        resolution=size,
    )


def _choose(path: Path, topics: dict[str, str], topic: str | None) -> str:
    """The topic of events to read."""
    events = sorted(n for n, kind in topics.items() if kind in (*EVENT_ARRAYS, *EVENT_PACKETS))
    if topic is not None:
        if topic not in events:
            raise DataError(f"{path}: no topic {topic} of events; it has {', '.join(events)}")
        return topic
    if not events:
        listed = ", ".join(f"{name} ({kind})" for name, kind in sorted(topics.items()))
        raise DataError(f"{path}: no topic of events; it has: {listed or 'nothing'}")
    if len(events) > 1:
        raise DataError(f"{path}: several topics of events ({', '.join(events)}); give --topic")
    return events[0]


def _files(path: Path) -> tuple[Path, ...]:
    """The files that a bag consists of."""
    return tuple(sorted(path.iterdir())) if path.is_dir() else (path,)


def _open(path: Path) -> Any:
    """A reader of the bag, not yet opened."""
    types = reader("rosbags.typesys", "reading ROS bags")
    known = None
    if path.suffix != ".bag":
        known = types.get_typestore(types.Stores[_ROS2_DEFINITIONS])
    return reader("rosbags.highlevel", "reading ROS bags").AnyReader(
        [path], default_typestore=known
    )


def _reading(path: Path, use: Callable[[Any], Any]) -> Any:
    """Call ``use`` with an open reader; the library's errors become a DataError."""
    try:
        with _open(path) as bag:
            return use(bag)
    except (DataError, ImportError, FileNotFoundError):
        raise
    except Exception as error:  # rosbags raises its own and struct's errors for damaged bags
        raise DataError(f"{path}: no readable bag, it may be cut off ({error})") from error


def _topics(path: Path) -> dict[str, str]:
    """Message type of each topic."""
    topics: dict[str, str] = _reading(
        path, lambda bag: {c.topic: c.msgtype for c in bag.connections}
    )
    return topics


def _messages(
    path: Path, topic: str, decode: Callable[[Any, Any, bytes], Decoded]
) -> Iterator[Decoded]:
    """What ``decode`` makes of (reader, connection, raw message), in the order of the bag.

    Raises DataError for whatever the library or ``decode`` raises on a damaged bag.
    """
    try:
        with _open(path) as bag:
            connections = [c for c in bag.connections if c.topic == topic]
            for connection, _, raw in bag.messages(connections=connections):
                yield decode(bag, connection, raw)
    except (ImportError, FileNotFoundError):
        raise
    except DataError as error:
        raise DataError(f"{path}: {topic}: {error}") from error
    except Exception as error:  # as in _reading
        raise DataError(f"{path}: topic {topic} cannot be read to its end ({error})") from error


def _message(bag: Any, connection: Any, raw: bytes) -> Any:
    """The message as an object of the library."""
    return bag.deserialize(raw, connection.msgtype)


def _size(path: Path, topic: str) -> tuple[int, int] | None:
    """(H, W) that the first message of events tells."""
    size = next(_messages(path, topic, _message_size), (0, 0))
    return size if min(size) > 0 else None


def _message_size(bag: Any, connection: Any, raw: bytes) -> tuple[int, int]:
    if connection.msgtype in EVENT_ARRAYS:
        return _array_head(bag, raw)[:2]
    message = _message(bag, connection, raw)
    return int(message.height), int(message.width)


def _arrays(path: Path, topic: str) -> Iterator[Block]:
    """Blocks of the event arrays of a topic."""
    held: list[NDArray[Any]] = []
    size = 0
    for events in _messages(path, topic, _array_events):
        held.append(events)
        size += len(events)
        if size >= BLOCK:
            yield _block(held)
            held, size = [], 0
    if size:
        yield _block(held)


def _array_events(bag: Any, connection: Any, raw: bytes) -> NDArray[Any]:
    return _ros2_events(bag, raw) if bag.is2 else _ros1_events(bag, raw)


def _array_head(bag: Any, raw: bytes) -> tuple[int, int, int, int]:
    """(height, width, number of events, place of the first) of a message of events.

    A ROS 1 message begins with a sequence number; a ROS 2 one with four bytes that tell its byte
    order, and its numbers lie on multiples of their size from there.
    """
    if bag.is2 and raw[1] != 1:
        raise DataError("messages in big-endian order cannot be read; convert the bag")
    (frame_id,) = struct.unpack_from("<I", raw, 12)
    start = 16 + frame_id
    if bag.is2:
        start = (start + 3) // 4 * 4
    height, width, count = struct.unpack_from("<III", raw, start)
    return height, width, count, start + 12


def _ros1_events(bag: Any, raw: bytes) -> NDArray[Any]:
    """Events of a ROS 1 message: 13 bytes each."""
    _, _, count, start = _array_head(bag, raw)
    return np.frombuffer(raw, _EVENT, count, start)


def _ros2_events(bag: Any, raw: bytes) -> NDArray[Any]:
    """Events of a ROS 2 message: one begins every 16 bytes, the time on a multiple of 4.

    Columns and rows need multiples of 2 only, so from the second event on they lie two bytes
    before.
    """
    _, _, count, start = _array_head(bag, raw)
    events = np.zeros(count, _EVENT)
    if not count:
        return events
    words = np.frombuffer(raw, "<u4", 4 * count - 1, start).copy()
    words = np.append(words, np.uint32(raw[start + 16 * count - 4])).reshape(count, 4)
    halves = words.view("<u2")
    events["secs"], events["nsecs"] = words[:, 1], words[:, 2]
    events["polarity"] = halves[:, 6] & 0xFF
    events["x"][0], events["y"] = halves[0, 0], halves[:, 0]
    events["y"][0] = halves[0, 1]
    events["x"][1:] = halves[:-1, 7]
    return events


def _block(held: list[NDArray[Any]]) -> Block:
    events = np.concatenate(held)
    return Block(
        events["x"], events["y"], events["secs"] + events["nsecs"] / 1e9, events["polarity"]
    )


def _packets(path: Path, topic: str) -> Iterator[Block]:
    """Blocks of the EVT3 data of a topic's packets, on the sensor's clock."""
    decoder = evt3.Decoder()
    for data in _messages(path, topic, _packet_data):
        yield decoder.decode(data)


def _packet_data(bag: Any, connection: Any, raw: bytes) -> bytes:
    message = _message(bag, connection, raw)
    if message.encoding != "evt3":
        raise DataError(f"encoded as {message.encoding!r}, only evt3 can be read")
    data: bytes = message.events.tobytes()
    return data


def _images(path: Path, topic: str) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    return _messages(path, topic, _image)


def _image(bag: Any, connection: Any, raw: bytes) -> tuple[float, NDArray[np.uint8]]:
    message = _message(bag, connection, raw)
    return _stamp(message), _grey(message)


def _image_times(path: Path, topic: str) -> NDArray[np.float64]:
    stamps = _messages(path, topic, lambda *raw: _stamp(_message(*raw)))
    return np.fromiter(stamps, np.float64)


def _stamp(message: Any) -> float:
    return float(message.header.stamp.sec + message.header.stamp.nanosec / 1e9)


def _grey(message: Any) -> NDArray[np.uint8]:
    """The grey picture uint8 [H, W] of an image message."""
    rows = message.data.reshape(message.height, message.step)
    if message.encoding in ("mono8", "8UC1"):
        grey: NDArray[np.uint8] = rows[:, : message.width]
        return grey
    if message.encoding not in _LUMINANCE:
        raise DataError(f"images encoded as {message.encoding!r} cannot be read; use --no-images")
    colours = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
    return np.rint(colours @ np.array(_LUMINANCE[message.encoding])).astype(np.uint8)
