"""Evaluation settings from the research code's ``eval_MVSEC.yml`` files.

Every key is mapped, or named as without effect here, or refused: nothing is dropped in silence.
docs/evaluation.md has the table.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib_data.console import MissingExtra
from calib_data.windows import MODES
from runtime.errors import EvaluationError
from runtime.protocol import Protocol

MAPPED = (
    "data.path", "data.mode", "data.window", "data.window_eval", "metrics.name",
    "metrics.flow_scaling", "loader.resolution", "loader.std_resolution", "hot_filter.enabled",
)  # fmt: skip
METRIC_NAMES = {
    "AEE": ("aee_published", "outliers_published"),
    "AAE": ("aae_published",),
    "NEE": ("nee_published",),
    "NAAE": ("naae_published",),
    "AE_ofMeans": ("angle_of_means_published",),
    "AAE_Weighted": ("aae_weighted_published",),
    "AAE_Filtered": ("aae_filtered_published",),
    "FWL": ("fwl",),
    "RSAT": ("rsat",),
}
FEW_EVENTS = 10
_FILTER = {"max_px": 100, "min_obvs": 5, "max_rate": 0.8}
_NO_EFFECT_SECTIONS = ("model", "spiking_neuron", "loss", "optimizer", "vis", "mpbn", "tebn")
_NO_EFFECT = (
    "experiment", "data.window_loss", "metrics.heat_map", "metrics.mag_threshold",
    "metrics.show_magnitude_overlay", "metrics.save_magnitude_map", "metrics.save_combined",
    "loader.batch_size", "loader.n_epochs", "loader.gpu", "loader.seed", "loader.output_crop",
    "loader.keep_gt_full_res", "loader.augment", "loader.augment_prob",
    *(f"hot_filter.{key}" for key in _FILTER),
)  # fmt: skip


@dataclass(frozen=True)
class ResearchConfig:
    """What such a file asks for.

    data: recordings, or None. metrics: names in ``runtime.metrics.METRICS``. fwl_events: events per
    value of the flow warp loss. ignored: keys without effect here.
    """

    protocol: Protocol
    data: Path | None
    metrics: tuple[str, ...]
    fwl_events: int | None
    ignored: tuple[str, ...]


def read_research_config(path: Path) -> ResearchConfig:
    """Read and map a file.

    Raises:
        MissingExtra: PyYAML is not installed.
        EvaluationError: no such YAML, an unknown key with the nearest known one, or a value
            without meaning here.
    """
    values = dict(_flat(_load(path)))
    ignored = tuple(key for key in values if _without_effect(key))
    for key in values:
        if key not in MAPPED and key not in ignored:
            near = difflib.get_close_matches(key, (*MAPPED, *_NO_EFFECT), 1)
            hint = f"; nearest: {near[0]!r}" if near else ""
            raise EvaluationError(f"{path}: unknown key {key!r}{hint}")
    _check(path, values)
    native = _size(path, values, "loader.std_resolution")
    small = _size(path, values, "loader.resolution")
    pooled = native is not None and small is not None and small != native
    scaling = values.get("metrics.flow_scaling")
    protocol = Protocol(
        name=path.name,
        mode=values.get("data.mode", "events"),
        window=float(values.get("data.window", 5000)),
        resolution=native or small,
        hot_pixels=bool(values.get("hot_filter.enabled", True)),
        few_events=FEW_EVENTS,
        flow_scaling=None if scaling is None else float(scaling),
        input_resolution=small if pooled else None,
        pooling="average" if pooled else None,
        source=f"configuration file {path.name}",
    )
    names = values.get("metrics.name") or []
    return ResearchConfig(
        protocol=protocol,
        data=Path(values["data.path"]) if values.get("data.path") else None,
        metrics=tuple(name for title in names for name in METRIC_NAMES[title]),
        fwl_events=values.get("data.window_eval") if {"FWL", "RSAT"} & set(names) else None,
        ignored=ignored,
    )


def _load(path: Path) -> Mapping[str, Any]:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as error:
        raise MissingExtra(
            f"{path}: reading YAML needs the package 'pyyaml', which the base install leaves out; "
            "pip install pyyaml"
        ) from error
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise EvaluationError(f"{path}: no readable YAML ({text})") from error
    if not isinstance(values, dict):
        raise EvaluationError(f"{path}: expected sections such as data, metrics and loader")
    return values


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted key."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _without_effect(key: str) -> bool:
    return key in _NO_EFFECT or key.partition(".")[0] in _NO_EFFECT_SECTIONS


def _check(path: Path, values: Mapping[str, Any]) -> None:
    mode = values.get("data.mode", "events")
    if mode not in MODES:
        raise EvaluationError(f"{path}: data.mode = {mode!r}; expected one of {', '.join(MODES)}")
    window = values.get("data.window", 5000)
    if isinstance(window, bool) or not isinstance(window, int | float) or window <= 0:
        raise EvaluationError(f"{path}: data.window = {window!r}; expected a number above 0")
    scaling = values.get("metrics.flow_scaling", 1)
    if isinstance(scaling, bool) or not isinstance(scaling, int | float) or scaling <= 0:
        raise EvaluationError(f"{path}: metrics.flow_scaling = {scaling!r}; expected a number")
    names = values.get("metrics.name") or []
    unknown = [n for n in names if n not in METRIC_NAMES] if isinstance(names, list) else [names]
    if unknown:
        known = ", ".join(METRIC_NAMES)
        raise EvaluationError(f"{path}: metrics.name holds {unknown[0]!r}; known are {known}")
    for key, fixed in _FILTER.items():
        if values.get(f"hot_filter.{key}", fixed) != fixed:
            raise EvaluationError(f"{path}: hot_filter.{key} is fixed at {fixed} here")
    if any(values.get("loader.augment") or []):
        raise EvaluationError(f"{path}: loader.augment: recordings are not augmented for scoring")


def _size(path: Path, values: Mapping[str, Any], key: str) -> tuple[int, int] | None:
    size = values.get(key)
    if size is None:
        return None
    fits = isinstance(size, list) and len(size) == 2
    if not fits or not all(isinstance(n, int) and n > 0 for n in size):
        raise EvaluationError(f"{path}: {key} = {size!r}; expected [H, W]")
    return size[0], size[1]
