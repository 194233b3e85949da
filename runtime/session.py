"""Running an artifact step by step in ONNX Runtime, its state kept between steps.

>>> session = StatefulSession("model.int8.onnx")
>>> for window in iterate_windows(file, "gtflow_dt1", 1):
...     flow = session.step(session.encode(window.events))    # [1, 2, H, W]

State lives in buffers that are bound to the graph once; a step copies the events in and the flow
out, and nothing else. A membrane is updated in its own buffer where that is provably safe (native
kernels, and the state read by nothing but the neuron that updates it); everything else alternates
between two buffers, since a convolution reads neighbours of the spikes it would overwrite.
"""

from __future__ import annotations

import os
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

import lif_op
from calib_data.events import Events
from runtime.artifact import LoadedModel, load_model
from runtime.errors import SessionError
from runtime.graph import (
    diagnostic_copy,
    inplace_states,
    load_proto,
    output_form,
    uses_library,
)
from runtime.graph_checks import EVENTS, FLOW, FLOW_ACC, check_state_bytes
from runtime.layout import unpacked_layers
from runtime.metadata import Artifact, State
from runtime.runner import Array, Flow, check_events, check_states, encode
from runtime.spikes import SpikeCount, count_spikes

LIBRARY_CHOICES = ("auto", "never", "require")
OPTIMIZATIONS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
BINDINGS = ("auto", "pingpong")
MAX_STATE_BYTES = 4 << 30
_ALIGNMENT = 64
_ERRORS_ONLY = 3


class LibraryWarning(UserWarning):
    """The op library is absent: results are the same, only slower."""

    user_note = True


@dataclass(frozen=True)
class Settings:
    """How a session runs; every combination computes the same integers.

    threads: of ONNX Runtime's pool, for one step.
    library: "auto" uses the op library where it is installed, "never" runs the function bodies
        that the file carries, "require" fails without the library.
    optimization: ONNX Runtime's graph optimisation level: off, basic, extended or all.
    binding: "auto" updates membranes in place where that is safe, "pingpong" never does.
    spinning: whether idle threads of the pool spin. It makes a lone session with several threads
        up to a third faster, and several such sessions in one process several times slower, so it
        is off unless asked for.
    profile: prefix of the profile that ONNX Runtime writes, or None.
    """

    threads: int = 1
    library: str = "auto"
    optimization: str = "all"
    binding: str = "auto"
    spinning: bool = False
    profile: str | None = None

    def check(self) -> None:
        """Raise SessionError for a value that is not one of those above."""
        if not isinstance(self.threads, int) or not 1 <= self.threads <= 1024:
            raise SessionError(f"threads = {self.threads!r}: expected a number from 1 to 1024")
        for what, value, choices in (
            ("library", self.library, LIBRARY_CHOICES),
            ("optimization", self.optimization, tuple(OPTIMIZATIONS)),
            ("binding", self.binding, BINDINGS),
        ):
            if value not in choices:
                raise SessionError(f"{what} = {value!r}: expected one of {', '.join(choices)}")


@dataclass
class Engine:
    """An ONNX Runtime session of one artifact, shared by any number of streams.

    native: whether the op library's kernels run its neurons.
    inplace: inputs of the states that are updated in their own buffer.
    spike_outputs: name of each layer's spike output, in a diagnostic engine only.
    """

    loaded: LoadedModel
    settings: Settings
    session: ort.InferenceSession
    native: bool
    inplace: frozenset[str]
    spike_outputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def artifact(self) -> Artifact:
        """The metadata of the artifact."""
        return self.loaded.artifact


def make_engine(
    loaded: LoadedModel, settings: Settings, spike_outputs: Mapping[str, str] | None = None
) -> Engine:
    """Create the ONNX Runtime session of a validated artifact.

    Raises:
        SessionError: ONNX Runtime refuses the file or the settings.
        lif_op.LibraryError: the library is required and missing, or cannot be used.
    """
    settings.check()
    registered = _library_wanted(settings.library)
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = OPTIMIZATIONS[settings.optimization]
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if settings.spinning else "0"
    )
    if settings.profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = settings.profile
    if registered:
        lif_op.register(options)
    outputs = spike_outputs or {}
    if not registered:
        return Engine(loaded, settings, _create(loaded, options), False, frozenset(), outputs)
    session, executed = _create_and_look(loaded, options)
    native = uses_library(executed.graph)
    inplace = frozenset[str]()
    if native and settings.binding == "auto":
        inplace = inplace_states(executed.graph, loaded.artifact.states)
    return Engine(loaded, settings, session, native, inplace, outputs)


def _library_wanted(choice: str) -> bool:
    """Whether to register the op library; a missing one is no error unless it is required."""
    if choice == "never":
        return False
    try:
        lif_op.library_path()
    except lif_op.LibraryError as error:
        if choice == "require":
            raise
        warnings.warn(
            f"running without the op library, slower but with the same results: {error}",
            LibraryWarning,
            stacklevel=2,
        )
        return False
    return True


def _create(loaded: LoadedModel, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(loaded.data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exception classes have no common base
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SessionError(f"{loaded.path}: ONNX Runtime refuses it ({lines[0]})") from error


def _create_and_look(
    loaded: LoadedModel, options: ort.SessionOptions
) -> tuple[ort.InferenceSession, ModelProto]:
    """The session, and the graph it executes: in-place safety is decided on that one.

    ONNX Runtime shows the executed graph only by writing it to a file.
    """
    with tempfile.TemporaryDirectory(prefix="spikedeploy-") as folder:
        executed = Path(folder) / "executed.onnx"
        options.optimized_model_filepath = os.fspath(executed)
        session = _create(loaded, options)
        return session, load_proto(executed.read_bytes())


class Stream:
    """One sequence through an engine: its own state, its own buffers.

    Streams of one engine may step in different threads at the same time. One stream serves one
    step at a time; a second thread waits.
    """

    def __init__(
        self, engine: Engine, resolution: tuple[int, int] | None = None, batch: int = 1
    ) -> None:
        """Allocate the buffers, or leave that to the first step where the size is still open.

        Raises SessionError for a size or batch that the artifact does not have, ArtifactError
        when its states would be too big.
        """
        artifact = engine.artifact
        if not _is_count(batch):
            raise SessionError(f"batch = {batch!r}: expected a whole number of at least 1")
        if resolution is not None and not _is_size(resolution):
            raise SessionError(
                f"resolution = {resolution!r}: expected (H, W), whole numbers of at least 1"
            )
        if not artifact.spatial_free:
            if resolution is not None and tuple(resolution) != artifact.resolution:
                raise SessionError(
                    f"{engine.loaded.path} is made for {_size(artifact.resolution)}, not for "
                    f"{_size(resolution)}; export it without a resolution or with that one"
                )
            resolution = artifact.resolution
        fixed = {s.shape[0] for s in artifact.states} - {"N"}
        if (fixed or not artifact.spatial_free) and batch != 1:
            raise SessionError(
                f"{engine.loaded.path} takes a batch of 1, not {batch}; export it without a "
                "resolution, or use one stream per sequence"
            )
        self._engine = engine
        self._batch = batch
        self._resolution = resolution
        self._lock = threading.Lock()
        self._buffers: _Buffers | None = None
        if resolution is not None:
            self._buffers = self._allocate(resolution)

    @property
    def artifact(self) -> Artifact:
        """The metadata of the artifact."""
        return self._engine.artifact

    @property
    def native(self) -> bool:
        """Whether the op library's kernels run the neurons."""
        return self._engine.native

    @property
    def resolution(self) -> tuple[int, int] | None:
        """(H, W), None until the first step of a stream whose size is open."""
        return self._resolution

    def encode(self, events: Events) -> Array:
        """Encode a window for this stream's size; see ``runtime.runner.encode``."""
        if self._resolution is None:
            raise SessionError("the size is not known yet; pass resolution=(H, W) to the session")
        window = encode(self.artifact, events, self._resolution)
        return window if self._batch == 1 else np.repeat(window, self._batch, axis=0)

    def step(self, events: Array, *, copy: bool = True) -> Flow:
        """Advance by one window.

        Args:
            events: [N, num_bins, H, W], uint8 counts up to 127 for int8 artifacts, float32
                otherwise. The array is free for reuse afterwards.
            copy: False returns a view of the stream's own buffer, valid until the next step.

        Returns:
            float32 [N, 2, H, W] in (-1, 1), x right and y down; times ``artifact.flow_scaling``
            it is pixels per window.

        Raises:
            SessionError: wrong shape or type, or ONNX Runtime fails; after such a failure the
                states are undefined, and steps are refused until reset() or set_states().
        """
        with self._lock:
            check_events(self.artifact, events, self._resolution, self._batch)
            if self._buffers is None:
                size = (events.shape[2], events.shape[3])
                self._buffers = self._allocate(size)
                self._resolution = size
            flow = self._buffers.step(self._engine.session, events)
            return flow.copy() if copy else flow

    def reset(self) -> None:
        """Return to the state before the first step."""
        with self._lock:
            if self._buffers is not None:
                self._buffers.fill({state.input: state.init for state in self.artifact.states})

    def states(self) -> dict[str, Array]:
        """Copies of the current states by the name of their graph input."""
        with self._lock:
            return {n: a.copy() for n, a in self._allocated().current().items()}

    def set_states(self, states: Mapping[str, Array]) -> None:
        """Put states back that ``states()`` returned, here or in an equal session.

        Raises SessionError unless every state is given with its type and shape.
        """
        with self._lock:
            if self._buffers is None and states:
                self._adopt_size(states)
            buffers = self._allocated()
            check_states(self.artifact, states, self._batch, self._size_or_error())
            buffers.fill(states)

    def outputs(self) -> dict[str, Array]:
        """Copies of the last step's outputs: ``flow``, and ``flow_acc`` of int8 artifacts."""
        with self._lock:
            names = (FLOW, FLOW_ACC)
            return {n: a.copy() for n, a in self._allocated().results.items() if n in names}

    def spikes(self) -> dict[str, Array]:
        """Copies of every layer's last spikes, [N, C, H, W]; empty unless diagnostic."""
        with self._lock:
            buffers = self._allocated()
            spikes = {
                layer: buffers.output(name).copy()
                for layer, name in self._engine.spike_outputs.items()
            }
        return unpacked_layers(self.artifact, spikes)

    def spike_counts(self) -> dict[str, SpikeCount]:
        """How many neurons of every layer fired in the last step; empty unless diagnostic."""
        with self._lock:
            buffers = self._allocated()
            return {
                layer: count_spikes(buffers.output(name), self.artifact.layer(layer).channels)
                for layer, name in self._engine.spike_outputs.items()
            }

    def diagnostic(self) -> Stream:
        """A fresh stream with the same settings on a copy of the graph that shows every spike."""
        return Stream(diagnostic_engine(self._engine), self._resolution, self._batch)

    def resized(self, batch: int) -> Stream:
        """A fresh stream of another batch on the same ONNX Runtime session."""
        return Stream(self._engine, self._resolution, batch)

    def _size_or_error(self) -> tuple[int, int]:
        if self._resolution is None:
            raise SessionError("no step was made and no resolution given, so there is no state yet")
        return self._resolution

    def _allocated(self) -> _Buffers:
        self._size_or_error()
        if self._buffers is None:
            raise SessionError("no step was made and no resolution given, so there is no state yet")
        return self._buffers

    def _adopt_size(self, states: Mapping[str, Array]) -> None:
        """Take an open size from a state whose height and width are the image's."""
        for state in self.artifact.states:
            if "H" in state.shape and "W" in state.shape and state.input in states:
                shape = np.shape(states[state.input])
                if len(shape) == len(state.shape):
                    size = (shape[state.shape.index("H")], shape[state.shape.index("W")])
                    self._buffers, self._resolution = self._allocate(size), size
                    return

    def _allocate(self, size: tuple[int, int]) -> _Buffers:
        check_state_bytes(
            self.artifact, self._batch, size, MAX_STATE_BYTES, os.fspath(self._engine.loaded.path)
        )
        return _Buffers(self._engine, self._batch, size)


class _Buffers:
    """The arrays of one stream and the two bindings that alternate between them.

    ONNX Runtime shares a NumPy array's memory and keeps neither it nor the OrtValue alive, so both
    are held here for as long as the bindings.
    """

    def __init__(self, engine: Engine, batch: int, size: tuple[int, int]) -> None:
        artifact = engine.artifact
        self._where = os.fspath(engine.loaded.path)
        self._states = artifact.states
        self._phase = 0
        self._spoiled = False
        events = _aligned((batch, artifact.num_bins, *size), artifact.event_dtype, 0)
        self._events = events
        self.results = {FLOW: _aligned((batch, 2, *size), np.float32, 0)}
        if artifact.is_integer:
            self.results[FLOW_ACC] = _aligned((batch, 2, *size), np.int32, 0)
        self._pairs = {
            state.input: _pair(state, state.resolved_shape(batch, *size), engine.inplace)
            for state in artifact.states
        }
        outputs = {state.output for state in artifact.states}
        for name in set(engine.spike_outputs.values()) - outputs:
            shape, kind = output_form(engine.loaded.model, name, (batch, *size))
            self.results[name] = _aligned(shape, kind, 0)
        self._bindings = [self._bind(engine.session, phase) for phase in (0, 1)]

    def _bind(self, session: ort.InferenceSession, phase: int) -> tuple[Any, list[Any]]:
        binding = session.io_binding()
        values: list[Any] = []

        def value(array: Array) -> Any:
            values.append(ort.OrtValue.ortvalue_from_numpy(array))
            return values[-1]

        binding.bind_ortvalue_input(EVENTS, value(self._events))
        for name, array in self.results.items():
            binding.bind_ortvalue_output(name, value(array))
        for state in self._states:
            pair = self._pairs[state.input]
            binding.bind_ortvalue_input(state.input, value(pair[phase]))
            binding.bind_ortvalue_output(state.output, value(pair[1 - phase]))
        return binding, values

    def step(self, session: ort.InferenceSession, events: Array) -> Flow:
        if self._spoiled:
            raise SessionError(
                f"{self._where}: the step before failed, and may have left half of the states "
                "updated; call reset() or set_states() first"
            )
        np.copyto(self._events, events)
        self._spoiled = True  # until all layers have run: membranes are updated in place
        try:
            session.run_with_iobinding(self._bindings[self._phase][0])
        except Exception as error:  # ONNX Runtime's exception classes have no common base
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise SessionError(f"{self._where}: the step failed ({lines[0]})") from error
        self._spoiled = False
        self._phase = 1 - self._phase
        flow: Flow = self.results[FLOW]  # type: ignore[assignment]
        return flow

    def current(self) -> dict[str, Array]:
        """The states that the next step will read, not copied."""
        return {name: pair[self._phase] for name, pair in self._pairs.items()}

    def output(self, name: str) -> Array:
        """An output of the last step by its name in the graph, not copied."""
        if name in self.results:
            return self.results[name]
        state = next(state for state in self._states if state.output == name)
        return self._pairs[state.input][self._phase]

    def fill(self, values: Mapping[str, Array | float]) -> None:
        """Overwrite the states that the next step will read."""
        for name, array in self.current().items():
            array[...] = values[name]
        self._spoiled = False


def _pair(state: State, shape: tuple[int, ...], inplace: frozenset[str]) -> tuple[Array, Array]:
    first = _aligned(shape, state.dtype, state.init)
    return first, first if state.input in inplace else _aligned(shape, state.dtype, state.init)


def _aligned(shape: tuple[int, ...], dtype: Any, fill: float) -> Array:
    """A filled array whose memory starts on a cache line, which vector kernels like."""
    kind = np.dtype(dtype)
    count = int(np.prod(shape))
    raw = np.empty(count * kind.itemsize + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    array = raw[start : start + count * kind.itemsize].view(kind).reshape(shape)
    array[...] = fill
    return array


def _is_count(value: Any) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and int(value) >= 1


def _is_size(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(map(_is_count, value))


def _size(resolution: tuple[int, int]) -> str:
    return f"{resolution[0]} x {resolution[1]}"


def diagnostic_engine(engine: Engine) -> Engine:
    """An engine with the same settings whose graph returns every layer's spikes as well."""
    copy, names = diagnostic_copy(engine.loaded.model, engine.artifact)
    loaded = replace(engine.loaded, model=copy, data=copy.SerializeToString())
    return make_engine(loaded, replace(engine.settings, profile=None), names)


class StatefulSession(Stream):
    """An artifact, ready to step; see the module's example.

    The session is itself a stream. ``stream()`` gives further, independent ones on the same ONNX
    Runtime session, which may run in other threads.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | LoadedModel,
        *,
        resolution: tuple[int, int] | None = None,
        batch: int = 1,
        threads: int = 1,
        library: str = "auto",
        optimization: str = "all",
        binding: str = "auto",
        spinning: bool = False,
        profile: str | None = None,
    ) -> None:
        """Load, validate and prepare an artifact.

        Args:
            path: the file, or a model already loaded by ``load_model``.
            resolution: (H, W) for files that leave it free; else it comes with the first step.
            batch: sequences per step, for files that leave it free.
            threads, library, optimization, binding, spinning, profile: see ``Settings``.

        Raises:
            ArtifactError: the file is refused. SessionError: it cannot run as asked.
            lif_op.LibraryError: the library is required and missing, or refuses to load.
        """
        loaded = path if isinstance(path, LoadedModel) else load_model(path)
        settings = Settings(threads, library, optimization, binding, spinning, profile)
        super().__init__(make_engine(loaded, settings), resolution, batch)

    @property
    def path(self) -> Path:
        """The file the session came from."""
        return self._engine.loaded.path

    @property
    def inplace(self) -> frozenset[str]:
        """Inputs of the states that are updated in their own buffer."""
        return self._engine.inplace

    @property
    def engine(self) -> Engine:
        """The ONNX Runtime session that the streams share."""
        return self._engine

    def stream(self, *, resolution: tuple[int, int] | None = None, batch: int = 1) -> Stream:
        """An independent stream on the same ONNX Runtime session."""
        return Stream(self._engine, resolution or self._resolution, batch)

    def end_profile(self) -> Path:
        """Stop profiling and return the file ONNX Runtime wrote (``profile`` was given)."""
        return Path(self._engine.session.end_profiling())
