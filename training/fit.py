"""Train a network; see docs/training.md.

Writes, in the run's folder: ``best.safetensors`` (lowest validation error), ``last.safetensors``,
``state.pt`` (from which ``--resume`` goes on exactly), ``log.jsonl``, ``config.yml`` and
``summary.json``. With a section ``quant`` in the configuration, or ``--quant``, it trains on the
integer grid; see ``python -m quant.qat --help``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from calib_data.console import run
from calib_data.files import check_writable
from training.config import ConfigError, TrainingConfig, config_from, load_config
from training.interruption import catch_interruption
from training.keys import keys_table
from training.numerics import reproducible
from training.run_folder import STATE, RunFolder, TrainingError, find_run
from training.sources import load_data
from training.tracking import Tracker, open_tracker
from training.trainer import Trainer, flat

ARTIFACTS = ("config.yml", "summary.json", "log.jsonl", "gradients.csv")


def _parser(prog: str, description: str | None, epilog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=epilog,
    )
    parser.add_argument("--config", type=Path, help="YAML configuration, ours or research code's")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the configuration, such as optimizer.lr=1e-3; may be repeated",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/last"), help="folder of the run")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with a run: its folder, its name beside --out, or its MLflow run id; "
        "without RUN the one in --out. Needs no --config",
    )
    parser.add_argument(
        "--quant", action="store_true", help="train on the integer grid (QAT) with section quant"
    )
    parser.add_argument(
        "--validation",
        metavar="SPLIT",
        help="held-out data: a folder of recordings, a share such as 0.1 of those in data.path, "
        "or a number of synthetic scenes",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to train")
    parser.add_argument(
        "--stop-after",
        type=int,
        metavar="N",
        help="end after update N of the schedule; --resume goes on from there",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--keys", action="store_true", help="print all keys of configurations")
    return parser


def _configuration(arguments: argparse.Namespace, folder: RunFolder | None) -> TrainingConfig:
    """The configuration of the file, or else of the run to resume, with all overrides."""
    overrides = list(arguments.set)
    if arguments.device:
        overrides.append(f"device={arguments.device}")
    if arguments.config is not None:
        config, source = load_config(arguments.config, overrides, _warn), str(arguments.config)
    elif folder is not None:
        saved = folder.load_state(torch.device("cpu"))["config"]
        source = str(folder.path)
        config = config_from(saved, source, overrides)
    else:
        raise ConfigError("give --config, or --resume to go on with a run")
    further = []
    if arguments.quant and config.quant is None:
        further.append("quant={}")
    if arguments.validation is not None:
        key = "validation_scenes" if config.data.path is None else "validation"
        further.append(f"data.{key}={arguments.validation}")
    return config_from(config.to_dict(), source, further) if further else config


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Within, a warning is one line on stderr, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _warn(str(message))
        yield


@contextlib.contextmanager
def _memory_errors_as_lines() -> Iterator[None]:
    """Within, too little memory becomes a :class:`TrainingError` that says what to make smaller."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has a type of its own for the GPU's memory only.
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not short and "can't allocate memory" not in str(error):
            raise
        raise TrainingError(
            "not enough memory; lower batch_size, data.crop, loss.window_loss or "
            "model.base_num_channels"
        ) from None


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


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
    arguments = _parser(prog, description, epilog).parse_args(argv)
    if arguments.keys:
        print(keys_table())
        return 0
    if arguments.threads < 1:
        raise ConfigError(f"--threads must be positive, got {arguments.threads}")
    if arguments.stop_after is not None and arguments.stop_after < 1:
        raise ConfigError(f"--stop-after must be positive, got {arguments.stop_after}")
    resume = arguments.resume is not None
    path = find_run(arguments.resume, arguments.out) if arguments.resume else arguments.out
    config = _configuration(arguments, RunFolder(path) if resume else None)
    if quantized and config.quant is None:
        raise ConfigError(
            f"{arguments.config or path}: has no section quant, see configs/qat_snn.yml, or --quant"
        )
    torch.set_num_threads(arguments.threads)
    check_writable(path / STATE)
    with (
        _warnings_as_lines(),
        _memory_errors_as_lines(),
        reproducible(config.deterministic),
        RunFolder(path).held(),
    ):
        summary, status = _train(config, path, resume, arguments.stop_after)
    if status:
        print(
            f"interrupted after update {summary['updates']}; go on with: {prog} --resume {path}",
            file=sys.stderr,
        )
        return status
    print(json.dumps(summary) if arguments.json else _line(summary, path))
    return 0


def _line(summary: dict[str, Any], path: Path) -> str:
    aee, error = summary["best_validation_aee"], summary["best_error"]
    if aee is not None:
        return f"best validation AEE {aee:.3f} px -> {path}"
    shown = "no finite loss" if error is None else f"lowest error {error:.4g}"
    return f"{shown} -> {path}"


def _train(
    config: TrainingConfig, path: Path, resume: bool, stop_after: int | None
) -> tuple[dict[str, Any], int]:
    """The run's summary, and the exit status: 0 unless it was interrupted."""
    folder = RunFolder(path)
    if folder.begun and not resume:
        raise ConfigError(f"{path} holds a run; pass --resume or another --out")
    trainer = Trainer(config, path, *load_data(config))
    if resume:
        trainer.load_state()
    text = yaml.safe_dump(config.to_dict(), sort_keys=False)
    folder.write("config.yml", lambda target: target.write_text(text))
    with _tracker(config, folder, resume) as tracker:
        trainer.recorder = tracker
        with catch_interruption() as interruption:
            summary = trainer.fit(stop_after, lambda: bool(interruption))
        networks = sorted(path.glob("*.safetensors"))
        for artifact in [*(path / name for name in ARTIFACTS), *networks]:
            if artifact.exists():
                tracker.artifact(artifact)
        interrupted = summary["stopped"] == "interrupted"
        tracker.finish("KILLED" if interrupted else "FINISHED")
    return summary, interruption.exit_status if interrupted else 0


def _tracker(config: TrainingConfig, folder: RunFolder, resume: bool) -> Tracker:
    tracking = config.tracking
    tracker = open_tracker(
        kind=tracking.kind,
        uri=tracking.uri,
        experiment=config.experiment,
        folder=folder.path,
        run_name=folder.path.name,
        parameters=flat(config.to_dict()),
        run_id=folder.run_id() if resume else None,
        tensorboard=tracking.tensorboard,
    )
    folder.write_json("run.json", {"run_id": tracker.run_id, "experiment": config.experiment})
    return tracker


if __name__ == "__main__":
    sys.exit(run(main))
