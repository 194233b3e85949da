"""Where training and validation sequences come from: synthetic scenes, or recordings in a folder.

What they are is in :mod:`training.sequences`, how they are drawn from in :mod:`training.sampling`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calib_data.console import progress
from calib_data.errors import DataError
from calib_data.npz import HDF5_SUFFIXES
from calib_data.synthetic import SceneConfig, write_scene
from training.config import ConfigError
from training.sampling import Augmentation, SlotSampler
from training.sequences import (
    HotPixels,
    Sequence,
    StreamedSequence,
    WindowEvents,
    WindowFormat,
    close_files,
    load_sequence,
)

__all__ = [
    "Augmentation",
    "HotPixels",
    "SceneSet",
    "Sequence",
    "SlotSampler",
    "StreamedSequence",
    "WindowEvents",
    "WindowFormat",
    "find_recordings",
    "load_recordings",
    "load_sequence",
    "load_sources",
    "scene_path",
    "split_recordings",
]

VALIDATION_SEED_OFFSET = 100_000
SUFFIXES = (*HDF5_SUFFIXES, ".npz")
MEMORY = 4 * 2**30
"""Bytes of sequences that are kept in memory before the rest is read as it is used."""


@dataclass(frozen=True)
class SceneSet:
    """Synthetic scenes, generated where they are not cached.

    cache: folder. count: how many. seed: of the first; held-out scenes begin
    VALIDATION_SEED_OFFSET later. resolution: (H, W). duration: seconds.
    """

    cache: Path
    count: int
    seed: int = 0
    resolution: tuple[int, int] = (128, 128)
    duration: float = 2.0

    def paths(self, label: str) -> list[Path]:
        """The scenes' files, written where they are absent (progress bar)."""
        seeds = range(self.seed, self.seed + self.count)
        return [
            scene_path(self.cache, seed, self.resolution, self.duration)
            for seed in progress(seeds, label, total=len(seeds))
        ]

    def held_out(self, count: int) -> SceneSet:
        """So many scenes that training never sees."""
        return replace(self, count=count, seed=self.seed + VALIDATION_SEED_OFFSET)


def load_sources(
    source: Path | SceneSet,
    validation: Path | float | SceneSet | None,
    form: WindowFormat,
    *,
    validation_form: WindowFormat | None = None,
    resolution: tuple[int, int] | None = None,
    validation_windows: int | None = None,
    seed: int = 0,
    memory: int = MEMORY,
) -> tuple[list[Sequence], list[Sequence]]:
    """Training and validation sequences.

    Recordings are .h5, .hdf5 and .npz files, in the order of their paths. Those that cannot be used
    are left out with a warning that names them. Recordings beyond ``memory`` are read as they are
    used (:class:`StreamedSequence`). Scenes are cut at flow intervals whatever ``form`` says, and
    no window of theirs is emptied nor any pixel filtered.

    Args:
        source: training data: a recording, a folder of them, or scenes.
        validation: held-out data: a folder or recording, whose files are then left out of training
            if they lie in ``source`` too; the share of recordings, between 0 and 1, that ``seed``
            picks; scenes (``source.held_out(n)`` of the training scenes); or None for none.
        form: how recordings are cut and encoded.
        validation_form: the same for validation; None for ``form``.
        resolution: (H, W), for recordings that do not tell their own.
        validation_windows: at most so many of each held-out sequence; None for all.
        seed: of the split.
        memory: most bytes of sequences kept in memory, training and validation each.

    Returns:
        training sequences, validation sequences.

    Raises:
        ConfigError: there are no recordings, none can be used, or none is left to train on; or the
            held-out windows, which are always in memory, do not fit.
        DataError: a held-out recording is damaged.
    """
    held_form = validation_form or form
    if isinstance(validation, float) and isinstance(source, SceneSet):
        raise ConfigError("a share of recordings is held out of a folder; scenes take a number")
    train: list[Path] | SceneSet = source if isinstance(source, SceneSet) else []
    held: list[Path] | SceneSet = validation if isinstance(validation, SceneSet) else []
    if isinstance(source, Path):
        train = find_recordings(source)
    if isinstance(validation, Path):
        held = find_recordings(validation)
        if isinstance(train, list):
            apart = {path.resolve() for path in held}
            train = [path for path in train if path.resolve() not in apart]
            if not train:
                raise ConfigError(f"{source}: every recording is held out in {validation}")
    elif isinstance(validation, float) and isinstance(train, list):
        train, held = split_recordings(train, validation, seed)
    return (
        _load(train, form, resolution, memory, "training"),
        _in_memory(held, held_form, resolution, memory, validation_windows) if held else [],
    )


def _in_memory(
    source: list[Path] | SceneSet,
    form: WindowFormat,
    resolution: tuple[int, int] | None,
    memory: int,
    windows: int | None,
) -> list[Sequence]:
    """The first windows of every held-out sequence."""
    sequences = _load(source, form, resolution, 0, "validation")
    stops = [len(s) if windows is None else min(windows, len(s)) for s in sequences]
    needed = sum(s.nbytes * stop // len(s) for s, stop in zip(sequences, stops, strict=True))
    if needed > memory:
        raise ConfigError(
            f"held-out sequences need {needed / 2**30:.1f} GiB of memory, and {memory / 2**30:.1f} "
            "are allowed; lower data.validation_windows or hold fewer out"
        )
    try:
        return [s.cut(0, stop) for s, stop in zip(sequences, stops, strict=True)]
    finally:
        close_files()


def _load(
    source: list[Path] | SceneSet,
    form: WindowFormat,
    resolution: tuple[int, int] | None,
    memory: int,
    label: str,
) -> list[Sequence]:
    if not isinstance(source, SceneSet):
        return load_recordings(source, form, resolution, memory, f"{label} recordings")
    form = replace(form, mode="gtflow_dt1", window=1.0, quiet_events=0, hot_pixels=None)
    return load_recordings(source.paths(f"{label} scenes"), form, None, memory, f"{label} scenes")


def find_recordings(source: Path) -> list[Path]:
    """A recording itself, or all in a folder and the folders in it, sorted by path.

    Raises:
        ConfigError: there are none.
        FileNotFoundError: there is no such file or folder.
    """
    if not source.exists():
        raise FileNotFoundError(2, "no such file or folder", str(source))
    if source.is_file():
        return [source]
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise ConfigError(f"{source}: no recording in this folder; expected {', '.join(SUFFIXES)}")
    return found


def split_recordings(paths: list[Path], share: float, seed: int) -> tuple[list[Path], list[Path]]:
    """Hold a share of recordings out: at least one, and never all.

    Args:
        paths: at least two.
        share: between 0 and 1.
        seed: of the choice.

    Returns:
        training and validation recordings, each in their former order.

    Raises:
        ConfigError: fewer than two recordings, or another share.
    """
    if not 0 < share < 1:
        raise ConfigError(f"a share held out lies between 0 and 1, got {share:g}")
    if len(paths) < 2:
        raise ConfigError(f"{paths[0]}: one recording cannot be shared; name one for validation")
    count = min(max(round(share * len(paths)), 1), len(paths) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(paths))[:count].tolist())
    return (
        [path for index, path in enumerate(paths) if index not in chosen],
        [path for index, path in enumerate(paths) if index in chosen],
    )


def load_recordings(
    paths: Iterable[Path],
    form: WindowFormat,
    resolution: tuple[int, int] | None = None,
    memory: int = MEMORY,
    label: str = "recordings",
) -> list[Sequence]:
    """Load recordings; those that cannot be used are left out with a warning that names them.

    Args:
        paths: at least one.
        form: how they are cut and encoded.
        resolution: (H, W), for those that do not tell their own.
        memory: most bytes kept; the recordings that do not fit are read as they are used.
        label: of the progress bar.

    Raises:
        ConfigError: none can be used.
    """
    paths = list(paths)
    sequences: list[Sequence] = []
    refused: list[str] = []
    for path in progress(paths, label, total=len(paths)):
        try:
            streamed = StreamedSequence(path, form, resolution)
            if not len(streamed):
                raise DataError(f"{path}: shorter than one window of {form.mode} {form.window:g}")
            fits = streamed.nbytes <= memory
            sequences.append(streamed.load() if fits else streamed)
            memory -= streamed.nbytes if fits else 0
        except (DataError, OSError) as error:
            refused.append(" ".join(str(error).split()))
        finally:
            close_files()
    if not sequences:
        raise ConfigError(f"none of {len(paths)} {label} can be used; the first: {refused[0]}")
    for reason in refused:
        warnings.warn(f"left out: {reason}", stacklevel=2)
    return sequences


def scene_path(cache: Path, seed: int, resolution: tuple[int, int], duration: float) -> Path:
    """Where a synthetic scene is cached; writes it when it is absent."""
    path = cache / f"scene_{seed}_{resolution[0]}x{resolution[1]}_{duration:g}s.h5"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        write_scene(SceneConfig.random(seed, resolution, duration), path)
    return path
