"""Train a network on synthetic scenes with exact flow.

Writes, in the run's folder: ``best.safetensors`` (lowest validation error), ``state.pt`` (from
which ``--resume`` goes on exactly), ``log.jsonl`` and ``summary.json``. With a section ``quant`` in
the configuration it fine-tunes on the integer grid; see ``python -m quant.qat --help``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from calib_data.console import progress, run
from calib_data.files import atomic_path
from models import LIFState, ModelConfig, SpikingFireNet, detach, save_checkpoint
from quant import QuantFireNet
from training.config import ConfigError, TrainingConfig, load_config
from training.data import VALIDATION_SEED_OFFSET, Sequence, SlotSampler, synthetic_sequences
from training.losses import endpoint_error_loss
from training.quantized import network_on_grid, save_on_grid
from training.validation import evaluate

Network = SpikingFireNet | QuantFireNet


def new_network(config: TrainingConfig, train: list[Sequence]) -> Network:
    """The network that a run starts with: fresh, or on its integer grid."""
    if config.quant is not None:
        return network_on_grid(config.model.name, config.quant, train)
    section = config.model
    return SpikingFireNet(
        ModelConfig(
            model=section.name,
            channels=section.base_num_channels,
            kernel_size=section.kernel_size,
        ),
        batch_norm=section.norm == "batch",
    )


def save_best(model: Network, folder: Path) -> None:
    """Write a run's best network in the form its kind has."""
    if isinstance(model, QuantFireNet):
        save_on_grid(model, folder)
    else:
        save_checkpoint(model.folded(), folder / "best.safetensors")


class Trainer:
    """One training run: network, optimiser, sampler, and everything needed to resume it.

    Args:
        config: the validated configuration.
        folder: where the run's files go.
        train, validation: sequences in memory.
    """

    def __init__(
        self,
        config: TrainingConfig,
        folder: Path,
        train: list[Sequence],
        validation: list[Sequence],
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.folder, self.validation = config, folder, validation
        self.model = new_network(config, train)
        head_lr = config.optimizer.lr / self.model.config.flow_scaling
        groups: list[dict[str, Any]] = [
            {"params": self.model.layers.parameters()},
            {"params": self.model.pred.parameters(), "lr": head_lr},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=config.optimizer.lr)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.sampler = SlotSampler(
            train, config.batch_size, config.loss.window_loss, config.data.crop, config.seed
        )
        self.states: dict[str, LIFState] | None = None
        self.update, self.seconds, self.best = 0, 0.0, math.inf

    def _rate(self, update: int) -> float:
        warmup = self.config.optimizer.warmup_updates
        if update < warmup:
            return (update + 1) / warmup
        done = (update - warmup) / max(1, self.config.updates - warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def train_update(self) -> float:
        """One chunk forward and back through time; returns the loss."""
        counts, target, fresh = self.sampler.next_chunk()
        self._reset_slots(fresh)
        loss = torch.zeros(())
        for step_counts, step_target in zip(counts, target, strict=True):
            flow, self.states = self.model.step(step_counts, self.states)
            loss = loss + endpoint_error_loss(
                flow * self.model.config.flow_scaling,
                step_target,
                step_counts,
                self.config.loss.quiet_pixel_weight,
            )
        loss = loss / len(counts)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.loss.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.loss.clip_grad)
        self.optimizer.step()
        self.schedule.step()
        if self.states is not None:
            self.states = detach(self.states)
        self.update += 1
        return float(loss.detach())

    def _reset_slots(self, fresh: torch.Tensor) -> None:
        if self.states is None:
            return
        keep = (~fresh).float().view(-1, 1, 1, 1)
        self.states = {
            name: LIFState(state.mem * keep, state.spike * keep)
            for name, state in self.states.items()
        }

    def validate(self) -> dict[str, float]:
        """Mean errors over the validation scenes; keeps the best network."""
        self.model.eval()
        rows = [evaluate(self.model, sequence).as_dict() for sequence in self.validation]
        self.model.train()
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        if mean["aee"] < self.best:
            self.best = mean["aee"]
            save_best(self.model, self.folder)
        return mean

    def log(self, record: dict[str, Any]) -> None:
        """Append one JSON line."""
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def save_state(self) -> None:
        """Write everything that the next update depends on."""
        states = self.states or {}
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "sampler": self.sampler.state_dict(),
            "states": {name: tuple(pair) for name, pair in states.items()},
            "update": self.update,
            "seconds": self.seconds,
            "best": self.best,
            "config": self.config.to_dict(),
        }
        with atomic_path(self.folder / "state.pt") as path:
            torch.save(state, path)

    def load_state(self) -> None:
        """Go on where :meth:`save_state` stopped.

        Raises:
            ConfigError: the run was started with another configuration.
        """
        state = torch.load(self.folder / "state.pt", weights_only=True)
        if state["config"] != self.config.to_dict():
            raise ConfigError(f"{self.folder}: was started with another configuration")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.sampler.load_state_dict(state["sampler"])
        if state["states"]:
            self.states = {name: LIFState(*pair) for name, pair in state["states"].items()}
        self.update, self.seconds, self.best = state["update"], state["seconds"], state["best"]

    def fit(self, stop_after: int | None = None) -> dict[str, Any]:
        """Run to the configured number of updates, or to ``stop_after``; returns the summary."""
        began = time.monotonic() - self.seconds
        end = self.config.updates if stop_after is None else min(stop_after, self.config.updates)
        remaining = range(self.update, end)
        for _ in progress(remaining, "training", total=len(remaining)):
            loss = self.train_update()
            self.seconds = time.monotonic() - began
            record: dict[str, Any] = {"update": self.update, "loss": loss, "s": self.seconds}
            last = self.update == end
            if last or self.update % self.config.validate_every == 0:
                record |= self.validate()
            self.log(record)
            if last or self.update % self.config.checkpoint_every == 0:
                self.save_state()
        return self._summary()

    def _summary(self) -> dict[str, Any]:
        summary = {
            "updates": self.update,
            "wall_seconds": round(self.seconds),
            "best_validation_aee": self.best,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
            "torch": torch.__version__,
            "config": self.config.to_dict(),
        }
        with atomic_path(self.folder / "summary.json") as path:
            path.write_text(json.dumps(summary, indent=2) + "\n")
        return summary


def _load_data(config: TrainingConfig) -> tuple[list[Sequence], list[Sequence]]:
    data = config.data
    held_out = range(VALIDATION_SEED_OFFSET, VALIDATION_SEED_OFFSET + data.validation_scenes)
    train = range(data.seed, data.seed + data.train_scenes)
    return (
        synthetic_sequences(data.cache, train, data.resolution, data.duration, "training scenes"),
        synthetic_sequences(data.cache, held_out, data.resolution, data.duration, "held-out"),
    )


def main(
    argv: list[str] | None = None,
    *,
    prog: str = "python -m training.fit",
    description: str | None = __doc__,
    epilog: str = "example: python -m training.fit --config configs/train_snn.yml --out runs/first",
    quantized: bool = False,
) -> int:
    """Command line; see ``--help``.

    Args:
        argv: arguments; None for those of the process.
        prog, description, epilog: of the help text.
        quantized: demand a configuration that trains on the integer grid.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=epilog,
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML configuration")
    parser.add_argument("--out", type=Path, default=Path("runs/last"), help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument(
        "--stop-after",
        type=int,
        metavar="N",
        help="end after update N of the schedule; --resume goes on from there",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config)
    if quantized and config.quant is None:
        raise ConfigError(f"{arguments.config}: has no section quant, see configs/qat_snn.yml")
    if arguments.threads < 1:
        raise ConfigError(f"--threads must be positive, got {arguments.threads}")
    torch.set_num_threads(arguments.threads)
    if (arguments.out / "state.pt").exists() and not arguments.resume:
        raise ConfigError(f"{arguments.out} holds a run; pass --resume or another --out")
    arguments.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, arguments.out, *_load_data(config))
    if arguments.resume:
        trainer.load_state()
    summary = trainer.fit(arguments.stop_after)
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(f"best validation AEE {summary['best_validation_aee']:.3f} px -> {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
