"""Events in, tensors out: recordings, windows, encodings, synthetic scenes with exact flow."""

from calib_data.encodings import COUNT_LIMIT, event_counts, event_mask, voxel_grid
from calib_data.errors import DataError
from calib_data.events import Events, EventSource
from calib_data.hdf5 import EventFile, EventFileWriter
from calib_data.hot_pixels import HotPixelFilter
from calib_data.npz import NpzEvents, open_events
from calib_data.windows import MODES, Window, count_windows, iterate_windows

__all__ = [
    "COUNT_LIMIT",
    "MODES",
    "DataError",
    "EventFile",
    "EventFileWriter",
    "EventSource",
    "Events",
    "HotPixelFilter",
    "NpzEvents",
    "Window",
    "count_windows",
    "event_counts",
    "event_mask",
    "iterate_windows",
    "open_events",
    "voxel_grid",
]
