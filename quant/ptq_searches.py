"""The searches of ``quant.ptq`` under a progress bar, and what an interrupted one goes on from."""

from __future__ import annotations

import hashlib
from typing import Any

from calib_data.console import progress
from quant.options import QuantOptions
from quant.prepared import Calibrated
from quant.search import (
    Memo,
    Sensitivity,
    Tuned,
    membrane_candidates,
    sensitivity,
    sensitivity_trials,
    tune,
)


def run_tuning(ready: Calibrated, options: QuantOptions, memo: Memo, *, quiet: bool) -> Tuned:
    """Tune under a bar; errors that the memo knows are not measured again."""
    layers = range(len(ready.model.named_layers()))
    total = 1 + sum(len(membrane_candidates(ready.derive, options, i)) for i in layers)
    steps = tune(ready.derive, options, ready.scorer, memo)
    shown = progress(steps, f"tuning on {ready.scorer.measure}", total, quiet=quiet)
    (tuned,) = [result for result in shown if isinstance(result, Tuned)]
    return tuned


def identity(ready: Calibrated, options: QuantOptions, scale_search: str) -> dict[str, Any]:
    """What the errors of an interrupted tuning depend on."""
    events = hashlib.sha256()
    for recording in ready.recordings:
        for counts in recording.counts:
            events.update(counts.numpy().tobytes())
    return {
        "checkpoint": ready.model.checkpoint_sha256,
        "events": events.hexdigest(),
        "options": {k: v for k, v in vars(options).items() if k != "layers"},
        "scale_search": scale_search,
        "measure": ready.scorer.measure,
    }


def run_sensitivity(ready: Calibrated, options: QuantOptions, *, quiet: bool) -> list[Sensitivity]:
    """Measure every layer at every width under a bar."""
    trials = sensitivity_trials(len(ready.model.named_layers()), options.neuron)
    steps = sensitivity(ready.derive, options, ready.scorer)
    return list(progress(steps, "sensitivity", trials, quiet=quiet))
