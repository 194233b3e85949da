"""What ``--module`` is given: the network a factory makes, and the samples it is shown."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from export.errors import ExportError

RANDOM_SAMPLES = 4
HELD_OUT_SHARE = 4
"""One sample in so many is held out of calibration."""

Array = npt.NDArray[Any]
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Samples:
    """Inputs of the network, one tuple of tensors per sample. calibration is empty where the
    module keeps its own scales."""

    names: tuple[str, ...]
    calibration: tuple[Inputs, ...]
    held_out: tuple[Inputs, ...]

    @property
    def feeds(self) -> list[dict[str, Array]]:
        """The held-out samples as a graph takes them."""
        return [
            {name: tensor.numpy() for name, tensor in zip(self.names, sample, strict=True)}
            for sample in self.held_out
        ]


def load_module(text: str) -> nn.Module:
    """Call a factory and return its module in eval mode.

    Args:
        text: ``package.file:factory``; the current folder is searched first, as ``python -m`` does.

    Raises:
        ExportError: no such module or attribute, a factory that fails, or no nn.Module.
    """
    name, colon, attribute = text.partition(":")
    if not (name and colon and attribute):
        raise ExportError(f"--module {text}: write package.file:factory")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ExportError(
                f"--module {text}: no module {error.name!r} here or installed"
            ) from error
        raise ExportError(f"--module {text}: it needs the package {error.name!r}") from error
    except Exception as error:
        raise ExportError(f"--module {text}: {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ExportError(f"--module {text}: {name} has no {part!r}")
        found = getattr(found, part)
    return _made(text, found)


def _made(text: str, factory: Any) -> nn.Module:
    if not callable(factory):
        raise ExportError(f"--module {text}: a {type(factory).__name__} cannot be called")
    is_module = isinstance(factory, nn.Module)
    try:
        made = factory if is_module else factory()
    except Exception as error:
        raise ExportError(f"--module {text}: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ExportError(
            f"--module {text}: gives a {type(made).__name__}, expected a torch.nn.Module"
        )
    return made.eval()


def parse_shape(text: str) -> tuple[int, ...]:
    """``1,3,32,32`` to a shape.

    Raises:
        ExportError: anything but positive whole numbers.
    """
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ExportError(f"--input-shape {text}: write positive numbers, such as 1,3,32,32")
    return tuple(int(part) for part in parts)


def input_names(module: nn.Module, count: int) -> tuple[str, ...]:
    """Names of the graph's inputs: those of forward's parameters.

    Raises:
        ExportError: forward takes another number of tensors.
    """
    parameters = list(inspect.signature(module.forward).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if count < needed or (count > len(positional) and not variadic):
        raise ExportError(
            f"{type(module).__name__}.forward takes {needed} inputs, --input-shape is given "
            f"{count} times; give one shape per input"
        )
    names = [p.name for p in positional[:count]]
    return (*names, *(f"input_{index}" for index in range(len(names), count)))


def read_samples(
    path: Path | None, names: Sequence[str], shapes: Sequence[tuple[int, ...]]
) -> Samples:
    """Samples of a file, or random ones.

    Args:
        path: an ``.npz`` with one array per input, by name or in order, samples along the first
            axis; None for standard normal inputs.
        names, shapes: of the inputs; the first axis of a shape is the batch.

    Returns:
        of a file, every fourth sample is held out; of random samples all are.

    Raises:
        ExportError: an array that is missing, empty, of another shape, or not finite.
    """
    if path is None:
        generator = torch.Generator().manual_seed(0)
        drawn = [
            tuple(torch.randn(shape, generator=generator) for shape in shapes)
            for _ in range(RANDOM_SAMPLES)
        ]
        return Samples(tuple(names), (), tuple(drawn))
    arrays = _ordered(path, _read(path), names)
    batches = [
        _batches(path, name, array, shape)
        for name, array, shape in zip(names, arrays, shapes, strict=True)
    ]
    counts = {len(batch) for batch in batches}
    if len(counts) > 1:
        raise ExportError(f"{path}: its arrays hold different numbers of samples")
    together = list(zip(*batches, strict=True))
    if len(together) < 2:
        raise ExportError(
            f"{path}: {len(together)} sample(s) of batch {shapes[0][0]}; give at least two, one to "
            "calibrate on and one to check with"
        )
    held = [index % HELD_OUT_SHARE == HELD_OUT_SHARE - 1 for index in range(len(together))]
    held[-1] = held[-1] or not any(held)
    return Samples(
        tuple(names),
        tuple(sample for sample, out in zip(together, held, strict=True) if not out),
        tuple(sample for sample, out in zip(together, held, strict=True) if out),
    )


def _read(path: Path) -> dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ExportError(f"{path}: one array, not an .npz file; write it with numpy.savez")
        with loaded as file:
            return {name: file[name] for name in file.files}
    except ExportError:
        raise
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ExportError(f"{path}: not a readable .npz file ({error})") from error


def _ordered(path: Path, arrays: dict[str, Array], names: Sequence[str]) -> list[Array]:
    if not arrays:
        raise ExportError(f"{path}: holds no array; store one per input: {', '.join(names)}")
    if set(names) <= set(arrays):
        return [arrays[name] for name in names]
    if len(arrays) != len(names):
        raise ExportError(
            f"{path}: holds {', '.join(arrays)}; the network's inputs are {', '.join(names)}"
        )
    return list(arrays.values())


def _batches(path: Path, name: str, array: Array, shape: tuple[int, ...]) -> list[Tensor]:
    """Cut the first axis into batches; a rest that fills none is left out."""
    if array.ndim != len(shape) or array.shape[1:] != shape[1:]:
        raise ExportError(
            f"{path}: array for input {name!r} has shape {list(array.shape)}, expected "
            f"[samples, {', '.join(map(str, shape[1:]))}]"
        )
    if array.dtype.kind not in "fiub":
        raise ExportError(f"{path}: array for input {name!r} has type {array.dtype}, not numbers")
    if not np.isfinite(array).all():
        raise ExportError(f"{path}: array for input {name!r} holds values that are not finite")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(values).all():
        raise ExportError(
            f"{path}: array for input {name!r} holds values beyond the range of float32 "
            f"({np.finfo(np.float32).max:.1e}); scale them"
        )
    size = shape[0]
    return [
        torch.from_numpy(values[start : start + size])
        for start in range(0, len(values) - size + 1, size)
    ]
