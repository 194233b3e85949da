"""One driven window with everything a picture of it needs, and the pictures as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calib_data.encodings import event_counts
from calib_data.events import Events
from runtime.metrics import end_point_error, valid_ground_truth
from runtime.pictures import Flow, Mask, Rgb, error_image, event_image, flow_image
from runtime.runner import Runner
from runtime.sequence import StepRecord
from runtime.warping import flow_warp_loss, warp_to_end

Counts = npt.NDArray[Any]

_SHORTEST = 0.01
_MOST = int(np.iinfo(np.uint16).max)
_FEWEST_AT_FULL = 3


@dataclass(frozen=True)
class Snapshot:
    """One window.

    index: its number. seconds: its end. counts: uint16 [2, H, W], events, brighter and darker.
    ground_truth: float32 [2, H, W], pixels over the ground-truth interval, None without.
    predictions: by network, float32 [2, H, W]; pixels over the same interval, or over the window
        where there is no ground truth.
    aee: by network, pixels; empty without ground truth.
    warped: uint16 [2, H, W], events moved to the end of the window along the flow of that name:
        each network's, and ``GROUND_TRUTH``'s.
    sharpness: flow warp loss of each of them over this window alone; NaN without events.
    """

    index: int
    seconds: float
    counts: Counts
    ground_truth: Flow | None
    predictions: Mapping[str, Flow]
    aee: Mapping[str, float]
    warped: Mapping[str, Counts]
    sharpness: Mapping[str, float]

    @property
    def mask(self) -> Mask:
        """Where an event fell: bool [H, W]."""
        return np.asarray(self.counts.any(axis=0))

    @property
    def scored(self) -> Mask:
        """Where an event fell and ground truth exists; without ground truth where an event fell."""
        if self.ground_truth is None:
            return self.mask
        both: Mask = self.mask & valid_ground_truth(self.ground_truth)
        return both


GROUND_TRUTH = "ground truth"


@dataclass(frozen=True)
class Scales:
    """flow: pixels at full saturation. error, difference: pixels at the heat map's end. events:
    events on a pixel at full colour in images of warped events."""

    flow: float
    error: float
    difference: float
    events: int


def snapshot(
    record: StepRecord,
    runners: Mapping[str, Runner],
    resolution: tuple[int, int],
    *,
    warp: bool = True,
) -> Snapshot | None:
    """The snapshot of a driven window; None where a network's flow is of another size.

    ``warp``: whether to move the events along the flows; ``warped`` is empty otherwise.
    """
    window = record.window
    counts = event_counts(window.events, resolution, np.uint16, _MOST)
    scored = all(step.pixels is not None for step in record.networks.values())
    truth = window.flow if scored else None
    stretch = window.dt_gt / window.dt_input if truth is not None else 1.0
    predictions: dict[str, Flow] = {}
    for name, step in record.networks.items():
        flow = step.pixels
        if truth is None or flow is None:
            flow = step.flow * np.float32(runners[name].artifact.flow_scaling)
        if flow.shape[1:] != tuple(resolution):
            return None
        predictions[name] = flow
    moved = predictions if truth is None else {GROUND_TRUTH: np.nan_to_num(truth), **predictions}
    along = {name: flow / np.float32(stretch) for name, flow in moved.items()} if warp else {}
    return Snapshot(
        index=window.index,
        seconds=window.t_stop,
        counts=counts,
        ground_truth=truth,
        predictions=predictions,
        aee={n: s.score.aee for n, s in record.networks.items() if s.score is not None},
        warped={name: warped_counts(window.events, flow) for name, flow in along.items()},
        sharpness={name: _sharpness(window.events, flow) for name, flow in along.items()},
    )


def warped_counts(events: Events, flow: Flow) -> Counts:
    """Image of warped events: uint16 [2, H, W], brighter and darker.

    Events move along the flow, in pixels per window, to the end of the window; see
    ``runtime.warping``.
    """
    height, width = flow.shape[1:]
    pixels, inside = warp_to_end([(events, flow)])
    positive = events.ps > 0
    planes = [
        np.bincount(pixels[inside & chosen], minlength=height * width)
        for chosen in (positive, ~positive)
    ]
    image = np.minimum(np.stack(planes), _MOST).astype(np.uint16)
    return image.reshape(2, height, width)


def _sharpness(events: Events, flow: Flow) -> float:
    return flow_warp_loss([(events, flow)]) if len(events) else float("nan")


def common_scales(snapshots: Sequence[Snapshot]) -> Scales:
    """Scales that suit all of some snapshots, so that their pictures compare.

    Flow: 99th percentile of the ground truth's length, of the predictions' where there is none.
    Errors: 95th percentile of all networks', half the flow's without ground truth. Differences:
    99th percentile of those between the first prediction and the last. At least a hundredth pixel
    each.
    """
    lengths, errors, differences, counts = [], [], [], []
    for shot in snapshots:
        flows = [f for f in [shot.ground_truth] if f is not None] or [*shot.predictions.values()]
        lengths += [np.linalg.norm(flow[:, shot.scored], axis=0) for flow in flows]
        truth = shot.ground_truth
        if truth is not None:
            errors += [end_point_error(f, truth)[shot.scored] for f in shot.predictions.values()]
        differences.append(difference(shot)[shot.mask])
        total = shot.counts.sum(axis=0, dtype=np.int64)
        counts.append(total[total > 0])
    flow = max(_percentile(lengths), _SHORTEST)
    return Scales(
        flow=flow,
        error=max(_percentile(errors, 95) if errors else flow / 2, _SHORTEST),
        difference=max(_percentile(differences), _SHORTEST),
        events=max(int(_percentile(counts)), _FEWEST_AT_FULL),
    )


def _percentile(parts: Sequence[npt.NDArray[Any]], percent: float = 99) -> float:
    every = np.concatenate(parts) if parts else np.zeros(0)
    every = every[np.isfinite(every)]
    return float(np.percentile(every, percent)) if every.size else 0.0


def difference(shot: Snapshot) -> npt.NDArray[np.float64]:
    """Length of the difference of the first and the last prediction: float64 [H, W], pixels."""
    flows = list(shot.predictions.values())
    return end_point_error(flows[0], flows[-1])


def strip_images(shot: Snapshot, scales: Scales) -> dict[str, Rgb]:
    """The window's pictures by title, each uint8 [H, W, 3].

    Events, ground truth, each prediction where events fell, each one's error against ground truth,
    and with several networks the difference of the first and the last.
    """
    images = {"events": event_image(shot.counts)}
    if shot.ground_truth is not None:
        images[GROUND_TRUTH] = flow_image(shot.ground_truth, scales.flow)
    for name, flow in shot.predictions.items():
        images[f"flow of {name}"] = flow_image(flow * shot.mask, scales.flow)
    if shot.ground_truth is not None:
        for name, flow in shot.predictions.items():
            error = end_point_error(flow, shot.ground_truth)
            images[f"error of {name}"] = error_image(error, scales.error, shot.scored)
    names = list(shot.predictions)
    if len(names) > 1:
        title = f"difference of {names[0]} and {names[-1]}"
        images[title] = error_image(difference(shot), scales.difference, shot.mask)
    return images


def warped_images(shot: Snapshot, scales: Scales) -> dict[str, Rgb]:
    """Images of events by title, each uint8 [H, W, 3]: as they fell, and moved along each flow."""
    images = {"as they fell": event_image(shot.counts, scales.events)}
    for name, counts in shot.warped.items():
        images[f"along {name}"] = event_image(counts, scales.events)
    return images
