"""ROS bags: ``dvs_msgs/EventArray`` of DAVIS drivers and ``EventPacket`` with EVT3 data.

Read with the pure-Python package ``rosbags``; no ROS is needed. Event arrays of ROS 1 bags are
taken from the raw message (13 bytes per event), which is a hundred times faster than building an
object per event.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import DataError
from calib_data.prepare import evt3
from calib_data.prepare.recording import BLOCK, Block, Recording, demand_resolution, reader

EVENT_ARRAYS = ("dvs_msgs/msg/EventArray", "prophesee_event_msgs/msg/EventArray")
EVENT_PACKETS = (
    "event_camera_msgs/msg/EventPacket",
    "event_array_msgs/msg/EventArray",
)
IMAGE = "sensor_msgs/msg/Image"

_EVENT = np.dtype(
    [("x", "<u2"), ("y", "<u2"), ("secs", "<u4"), ("nsecs", "<u4"), ("polarity", "u1")]
)
_LUMINANCE = {"rgb8": (0.299, 0.587, 0.114), "bgr8": (0.114, 0.587, 0.299)}


def find(
    root: Path,
    *,
    resolution: tuple[int, int] | None = None,
    topic: str | None = None,
    **_: object,
) -> list[Recording]:
    """Every bag at or below ``root``: ROS 1 files (.bag), in the order of their names.

    topic: of the events, where a bag has several; images are taken from the topic nearest to it.
    """
    paths = [root] if root.is_file() else sorted(root.rglob("*.bag"))
    return [_recording(path, resolution, topic) for path in paths]


def dvs_recording(
    name: str,
    path: Path,
    *,
    events_topic: str,
    images_topic: str | None,
    resolution: tuple[int, int],
) -> Recording:
    """A bag of ``dvs_msgs/EventArray``: events and images of the named topics.

    Raises DataError when the bag has no such topic of events; images may be missing.
    """
    topics = _topics(path)
    if topics.get(events_topic) not in EVENT_ARRAYS:
        listed = ", ".join(f"{name} ({kind})" for name, kind in sorted(topics.items()))
        raise DataError(f"{path}: no topic {events_topic} of event arrays; it has: {listed}")
    base = Recording(name, (path,), resolution, lambda: _arrays(path, events_topic))
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
    if topics[chosen] in EVENT_PACKETS:
        return Recording(path.stem, (path,), size, lambda: _packets(path, chosen))
    prefix = chosen.rpartition("/")[0]
    images = [
        name
        for name, kind in sorted(topics.items())
        if kind == IMAGE and name.rpartition("/")[0] == prefix
    ]
    return dvs_recording(
        path.stem,
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


def _open(path: Path) -> Any:
    """A reader of the bag, not yet opened."""
    return reader("rosbags.highlevel", "reading ROS bags").AnyReader([path])


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


def _messages(path: Path, topic: str) -> Iterator[tuple[Any, Any, bytes]]:
    """(reader, connection, raw message) of one topic, in the order of the bag."""
    try:
        with _open(path) as bag:
            connections = [c for c in bag.connections if c.topic == topic]
            for connection, _, raw in bag.messages(connections=connections):
                yield bag, connection, raw
    except (DataError, ImportError, FileNotFoundError, GeneratorExit):
        raise
    except Exception as error:  # as in _reading
        raise DataError(f"{path}: topic {topic} cannot be read to its end ({error})") from error


def _size(path: Path, topic: str) -> tuple[int, int] | None:
    """(H, W) that the first message of events tells."""
    for bag, connection, raw in _messages(path, topic):
        message = bag.deserialize(raw, connection.msgtype)
        if message.height > 0 and message.width > 0:
            return int(message.height), int(message.width)
        break
    return None


def _arrays(path: Path, topic: str) -> Iterator[Block]:
    """Blocks of the event arrays of a topic."""
    held: list[NDArray[Any]] = []
    size = 0
    for bag, connection, raw in _messages(path, topic):
        held.append(_slow_events(bag, connection, raw) if bag.is2 else _raw_events(path, raw))
        size += len(held[-1])
        if size >= BLOCK:
            yield _block(held)
            held, size = [], 0
    if size:
        yield _block(held)


def _raw_events(path: Path, raw: bytes) -> NDArray[Any]:
    """Events of a ROS 1 message: header, height, width, count, then 13 bytes per event."""
    (frame_id_length,) = struct.unpack_from("<I", raw, 12)
    start = 16 + frame_id_length + 8
    (count,) = struct.unpack_from("<I", raw, start)
    if start + 4 + count * _EVENT.itemsize > len(raw):
        raise DataError(f"{path}: a message of events is cut off")
    return np.frombuffer(raw, _EVENT, count, start + 4)


def _slow_events(bag: Any, connection: Any, raw: bytes) -> NDArray[Any]:
    """Events of a ROS 2 message, through the library."""
    message = bag.deserialize(raw, connection.msgtype)
    rows = [(e.x, e.y, e.ts.sec, e.ts.nanosec, e.polarity) for e in message.events]
    return np.array(rows, _EVENT)


def _block(held: list[NDArray[Any]]) -> Block:
    events = np.concatenate(held)
    return Block(
        events["x"], events["y"], events["secs"] + 1e-9 * events["nsecs"], events["polarity"]
    )


def _packets(path: Path, topic: str) -> Iterator[Block]:
    """Blocks of the EVT3 data of a topic's packets, on the sensor's clock."""
    decoder = evt3.Decoder()
    for bag, connection, raw in _messages(path, topic):
        message = bag.deserialize(raw, connection.msgtype)
        if message.encoding != "evt3":
            raise DataError(
                f"{path}: {topic} is encoded as {message.encoding!r}, only evt3 can be read"
            )
        yield decoder.decode(message.events.tobytes())


def _images(path: Path, topic: str) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    for bag, connection, raw in _messages(path, topic):
        message = bag.deserialize(raw, connection.msgtype)
        yield _stamp(message), _grey(path, message)


def _image_times(path: Path, topic: str) -> NDArray[np.float64]:
    return np.array(
        [
            _stamp(bag.deserialize(raw, connection.msgtype))
            for bag, connection, raw in _messages(path, topic)
        ]
    )


def _stamp(message: Any) -> float:
    return float(message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec)


def _grey(path: Path, message: Any) -> NDArray[np.uint8]:
    """The grey picture uint8 [H, W] of an image message."""
    rows = message.data.reshape(message.height, message.step)
    if message.encoding in ("mono8", "8UC1"):
        grey: NDArray[np.uint8] = rows[:, : message.width]
        return grey
    if message.encoding not in _LUMINANCE:
        raise DataError(
            f"{path}: images encoded as {message.encoding!r} cannot be read; use --no-images"
        )
    colours = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
    return np.rint(colours @ np.array(_LUMINANCE[message.encoding])).astype(np.uint8)
