"""The training loop, one for float networks and for networks on their integer grid."""

from __future__ import annotations

import math
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models import CheckpointError, detach, keep, restore
from quant import QuantFireNet
from training.chunk import Chunk
from training.config import ConfigError, TrainingConfig
from training.data import Sequence
from training.network import new_network, save_network, standardise
from training.numerics import forward_numerics, pick_device
from training.objective import chunk_loss, nothing_to_learn
from training.optimization import Schedule, build_optimizer
from training.progress import TrainingBar
from training.run_folder import SUMMARY, RunFolder, TrainingError
from training.sources import make_sampler
from training.standing import Standing
from training.statistics import activity, gradient_rows
from training.validation import validate, validation_picture


class Recorder(Protocol):
    """Where a run is recorded beside its folder; see :mod:`training.tracking`."""

    @property
    def run_id(self) -> str | None: ...
    def metrics(self, values: Mapping[str, float], step: int) -> None: ...
    def image(self, name: str, rgb: npt.NDArray[np.uint8], step: int) -> None: ...


class Update(NamedTuple):
    """What one update did.

    loss: NaN where none could be computed.
    grad_norm: of all gradients, before clipping; NaN where the update was skipped.
    skipped: why parameters and optimiser stayed as they were, or None.
    """

    loss: float
    grad_norm: float = math.nan
    skipped: str | None = None


class Trainer:
    """One training run: network, optimiser, sampler, and everything needed to resume it.

    Args:
        config: the validated configuration.
        folder: where the run's files go.
        train, validation: sequences; without the latter the training loss chooses the best network.
        recorder: told losses, errors and pictures; None for nobody.

    Raises:
        ConfigError: sections that do not fit together, or not to the data.
    """

    def __init__(
        self,
        config: TrainingConfig,
        folder: Path,
        train: list[Sequence],
        validation: list[Sequence],
        recorder: Recorder | None = None,
    ) -> None:
        self.device = pick_device(config.device, config.precision)
        torch.manual_seed(config.seed)
        self.config, self.folder, self.validation = config, RunFolder(folder), validation
        self.recorder = recorder
        self.model = new_network(config, train).to(self.device)
        self.updates = _length(config, train)
        body, head = self.model.layers.parameters(), self.model.pred.parameters()
        scaling = self.model.config.flow_scaling
        self.optimizer = build_optimizer(config.optimizer, body, head, scaling)
        self.schedule = Schedule(config.optimizer, self.optimizer, self.updates)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=config.precision == "float16" and not self._exact
        )
        self.sampler = make_sampler(config, train)
        self.states: Any = None
        self.standing = Standing()

    @property
    def _exact(self) -> bool:
        return isinstance(self.model, QuantFireNet)

    def train_update(self) -> Update:
        """One chunk forward and back through time.

        The neurons' states are carried from chunk to chunk, cut from the graph; slots that begin a
        new sequence start at zero. An update is skipped, and parameters, optimiser and the
        statistics of batch norms stay as they were, where the chunk teaches nothing, and where loss
        or gradient is not finite; in that case all states start from zero again.
        """
        chunk = Chunk(*(_to(part, self.device) for part in self.sampler.next_chunk()))
        self._reset_slots(chunk.fresh)
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        flow = self._forward(chunk.inputs)
        idle = nothing_to_learn(self.config.loss, chunk)
        if idle is None:
            update = self._learn(chunk_loss(self.config.loss, flow, chunk))
        else:
            update = Update(math.nan, skipped=idle)
        if update.skipped is None:
            self.states = detach(self.states)
        else:
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
            self.states = detach(self.states) if idle else None
        self.schedule.after_update()
        self.standing.count(None if update.skipped else update.loss)
        self._newest = chunk
        return update

    def _reset_slots(self, fresh: Tensor) -> None:
        if self.states is not None:
            self.states = keep(self.states, ~fresh)

    def _forward(self, inputs: Tensor) -> Tensor:
        """Flow float32 [K, B, 2, H, W] of inputs [K, B, bins, H, W], pixels per window."""
        flows = []
        with forward_numerics(self.device, self.config.precision, self._exact):
            for index, window in enumerate(inputs):
                given = standardise(window) if self.config.model.norm_input else window
                flow, self.states = self._step(given, index)
                flows.append(flow.float())
        return torch.stack(flows) * self.model.config.flow_scaling

    def _step(self, inputs: Tensor, index: int) -> tuple[Tensor, Any]:
        if isinstance(self.model, QuantFireNet):
            return self.model.step(inputs, self.states)
        return self.model.step(inputs, self.states, index)

    def _learn(self, loss: Tensor) -> Update:
        value = float(loss.detach())
        self.optimizer.zero_grad(set_to_none=True)
        if not math.isfinite(value):
            return Update(value, skipped=f"the loss is {value}")
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        clip = self.config.loss.clip_grad
        limit = math.inf if clip is None else clip
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        if not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.update()
            return Update(value, norm, f"the gradient's norm is {norm}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return Update(value, norm)

    def validate(self, *, scheduled: bool = True) -> dict[str, float]:
        """Errors on the held-out sequences; keeps the best network.

        Args:
            scheduled: whether schedule and early stop count it; the validation at the end of a run
                that is cut short must not, or the run would go on differently.
        """
        standing = self.standing
        values: dict[str, float] = {"train_loss": standing.mean_loss()}
        if self.validation:
            values |= validate(self.model, self.validation, self.config, self.device)
        error = values.get("error", values["train_loss"])
        if values["train_loss"] < standing.best_loss:
            standing.best_loss = values["train_loss"]
            if self.config.checkpoints.lowest_loss:
                self._save_network("lowest_loss")
        if error < standing.best:
            standing.best, standing.best_values = error, {**values, "update": standing.update}
            self._save_network("best")
        if scheduled:
            standing.judge(error, self.config.early_stop.min_delta)
            self.schedule.after_validation(error)
        return values

    def save_state(self) -> None:
        """Write everything that the next update depends on.

        Raises:
            TrainingError: it cannot be written; the state saved before is intact.
        """
        for name, parameter in self.model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise TrainingError(
                    f"update {self.standing.update}: {name} is no longer finite; {self._remedy()}"
                )
        cuda = torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        states = {} if self.states is None else self.states
        self.folder.save_state(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "sampler": self.sampler.state_dict(),
                "states": {name: tuple(state) for name, state in states.items()},
                "standing": self.standing.state_dict(),
                "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
                "config": self.config.to_dict(),
            }
        )

    def load_state(self) -> None:
        """Go on where :meth:`save_state` stopped; what was logged later is dropped from the log.

        Raises:
            ConfigError: the run was started with another configuration.
            TrainingError: the file is damaged.
            OSError: there is none.
        """
        state = self.folder.load_state(self.device)
        _check_same(self.folder.path, state["config"], self.config.to_dict())
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.sampler.load_state_dict(state["sampler"])
        self.states = restore(state["states"])
        self.standing.load_state_dict(state["standing"])
        torch.set_rng_state(state["random"]["cpu"].cpu())
        if state["random"]["cuda"]:
            torch.cuda.set_rng_state_all([part.cpu() for part in state["random"]["cuda"]])
        self.folder.forget_after(self.standing.update)

    def fit(
        self, stop_after: int | None = None, interrupted: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """Run to the last update, or until something ends it earlier; returns the summary.

        Args:
            stop_after: end after this update of the schedule.
            interrupted: asked after every update; true saves the state and ends.

        Raises:
            TrainingError: too many skipped updates in a row, or files that cannot be written.
        """
        standing = self.standing
        began = time.monotonic() - standing.seconds
        end = self.updates if stop_after is None else min(stop_after, self.updates)
        stopped = "early stop" if self._patience_is_over() else None
        with TrainingBar(standing.update, end) as bar:
            while standing.update < end and stopped is None:
                update = self.train_update()
                standing.seconds = time.monotonic() - began
                record = self._record(update)
                if interrupted():
                    stopped = "interrupted"
                elif (scheduled := self._due(self.config.validate_every)) or standing.update == end:
                    record |= self._validated(scheduled)
                    stopped = "early stop" if self._patience_is_over() else None
                self.folder.log(record)
                self._tell(record)
                self._stop_if_stuck(update)
                if stopped or standing.update == end or self._due(self.config.checkpoint_every):
                    self._keep()
                best = standing.best if math.isfinite(standing.best) else None
                bar.advance(update.loss, self._pixels(), best)
        return self._summary(stopped or ("finished" if end == self.updates else "stop after"))

    def _due(self, every: int) -> bool:
        return self.standing.update % every == 0 or self.standing.update == self.updates

    def _patience_is_over(self) -> bool:
        patience = self.config.early_stop.patience
        return patience is not None and self.standing.stale >= patience

    def _record(self, update: Update) -> dict[str, Any]:
        """The update's line in the log."""
        number, logging = self.standing.update, self.config.logging
        record: dict[str, Any] = {"update": number, "loss": update.loss}
        record |= {"grad_norm": update.grad_norm, "lr": self.optimizer.param_groups[0]["lr"]}
        record["s"] = self.standing.seconds
        if update.skipped:
            record["skipped"] = update.skipped
        elif logging.gradients and number % logging.gradients == 0:
            rows = gradient_rows(self.model)
            self.folder.log_gradients(number, rows)
            record["gradients"] = {name: norm for name, norm, _, _ in rows}
        if logging.activity and number % logging.activity == 0 and self.states is not None:
            record["activity"] = activity(self._newest.inputs[-1], self.states)
        return record

    def _validated(self, scheduled: bool) -> dict[str, float]:
        values = self.validate(scheduled=scheduled)
        every, count = self.config.tracking.images_every, self.standing.validations
        if self.recorder and every and self.validation and scheduled and count % every == 0:
            shown = validation_picture(self.model, self.validation[0], self.config, self.device)
            self.recorder.image("validation", shown, self.standing.update)
        return values

    def _tell(self, record: Mapping[str, Any]) -> None:
        if self.recorder is None:
            return
        number = self.standing.update
        if number % self.config.tracking.every == 0 or "train_loss" in record:
            flat = _flat_numbers(record)
            self.recorder.metrics({k: v for k, v in flat.items() if k != "update"}, number)

    def _stop_if_stuck(self, update: Update) -> None:
        standing = self.standing
        if standing.skipped_in_a_row >= self.config.skip_limit:
            raise TrainingError(
                f"update {standing.update}: {standing.skipped_in_a_row} updates in a row were "
                f"skipped, this one because: {update.skipped}; {self._remedy()}"
            )

    def _remedy(self) -> str:
        saved = "the last saved state is intact" if self.folder.begun else "no state was saved yet"
        return f"{saved} in {self.folder.path}; lower optimizer.lr or look at the data"

    def _keep(self) -> None:
        self.save_state()
        if self.config.checkpoints.last:
            self._save_network("last")

    def _save_network(self, stem: str) -> None:
        try:
            save_network(self.model, self.folder, stem)
        except CheckpointError as error:
            # Norms of membranes may have no canonical form yet; the state is saved all the same.
            warnings.warn(
                f"update {self.standing.update}: {stem} is not kept ({error})", stacklevel=2
            )

    def _pixels(self) -> int:
        windows, slots, _, height, width = self._newest.inputs.shape
        return windows * slots * height * width

    def _summary(self, stopped: str) -> dict[str, Any]:
        standing = self.standing
        best = standing.best if math.isfinite(standing.best) else None
        summary = {
            "updates": standing.update,
            "stopped": stopped,
            "skipped": standing.skipped,
            "wall_seconds": round(standing.seconds),
            "best_validation_aee": standing.best_values.get("aee"),
            "best_error": best,
            "best": standing.best_values,
            "run_id": None if self.recorder is None else self.recorder.run_id,
            "machine": self._machine(),
            "torch": torch.__version__,
            "config": self.config.to_dict(),
        }
        self.folder.write_json(SUMMARY, summary)
        return summary

    def _machine(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{platform.machine()}, {torch.get_num_threads()} thread(s)"


def _to(part: Any, device: torch.device) -> Any:
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=True)
    return None if part is None else type(part)(*(_to(inner, device) for inner in part))


def _length(config: TrainingConfig, train: list[Sequence]) -> int:
    """Updates of the whole run; an epoch sees as many windows as there are."""
    if config.epochs is None:
        return config.updates
    windows = sum(len(sequence) for sequence in train)
    return math.ceil(config.epochs * windows / (config.batch_size * config.loss.window_loss))


# What may change while a run is interrupted: nothing else than what is computed, and where.
_FREE = ("experiment", "tracking.", "logging.", "checkpoints.", "checkpoint_every", "device")


def _check_same(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    before, now = flat(there), flat(here)
    changed = [
        f"{key} {before.get(key)!r} there, {now.get(key)!r} here"
        for key in {**before, **now}
        if before.get(key) != now.get(key) and not key.startswith(_FREE)
    ]
    if changed:
        raise ConfigError(f"{folder}: was started with another configuration: {changed[0]}")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their full dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, Mapping)
        leaves |= flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return leaves


def _flat_numbers(record: Mapping[str, Any]) -> dict[str, float]:
    numbers = {key: v for key, v in flat(record).items() if isinstance(v, int | float)}
    return {key: float(value) for key, value in numbers.items() if math.isfinite(value)}
