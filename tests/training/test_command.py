"""The command: options, what it leaves, mistakes in one line, resumption from outside."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from calib_data import console
from models import load_checkpoint, save_checkpoint
from training import fit
from training.config import TrainingConfig
from training.data import scene_path
from training.keys import keys_table
from training.trainer import Trainer

Make = Callable[..., Any]
DOCUMENT = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The command sets the number of threads of the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(*arguments: object) -> int:
    return console.run(fit.main, [str(argument) for argument in arguments])


def test_what_it_leaves(
    write_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = write_config(), tmp_path / "run"
    assert run("--config", config, "--out", out, "--threads", 1, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["updates"] == 2 and summary["stopped"] == "finished"
    assert {path.name for path in out.iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "state.pt",
        "log.jsonl",
        "config.yml",
        "run.json",
        "summary.json",
    }
    assert load_checkpoint(out / "best.safetensors").config.channels == 2
    assert yaml.safe_load((out / "config.yml").read_text()) == summary["config"]
    assert run("--config", config, "--out", out) == 2
    assert "holds a run; pass --resume" in capsys.readouterr().err
    assert run("--config", config, "--out", out, "--resume", "--threads", 1) == 0
    assert "best validation AEE" in capsys.readouterr().out
    again = tmp_path / "again"
    assert run("--config", out / "config.yml", "--out", again, "--threads", 1) == 0
    logs = [[json.loads(line)["loss"] for line in (folder / "log.jsonl").open()]
            for folder in (out, again)]  # fmt: skip
    assert logs[0] == logs[1]


def test_resuming_needs_no_configuration(
    write_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, runs = write_config(updates=4), tmp_path / "runs"
    start = ["--config", config, "--threads", 1]
    assert run(*start, "--out", runs / "whole") == 0
    assert run(*start, "--out", runs / "parts", "--stop-after", 1) == 0
    (runs / "parts" / "run.json").write_text('{"run_id": "0123abcd"}')
    for reference, stop in ((runs / "parts", 2), ("parts", 3), ("runs:0123abcd", 4)):
        arguments = ["--resume", reference, "--out", runs / "last", "--stop-after", stop]
        assert run(*arguments, "--threads", 1, "--set", "tracking.kind=none") == 0
        # Without a tracker there is no run id; put back what a tracker would have kept.
        (runs / "parts" / "run.json").write_text('{"run_id": "0123abcd"}')
    logs = [[json.loads(line)["loss"] for line in (runs / name / "log.jsonl").open()]
            for name in ("whole", "parts")]  # fmt: skip
    assert logs[0] == logs[1] and len(logs[0]) == 4
    capsys.readouterr()
    assert run("--resume", "other", "--out", runs / "last") == 2
    assert "--resume other: no such folder, nor a run" in capsys.readouterr().err
    assert run("--resume", runs / "parts", "--set", "optimizer.lr=1") == 2
    assert "optimizer.lr 0.002 there, 1.0 here" in capsys.readouterr().err


def test_overrides(write_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    changes = ["optimizer.lr=1e-4", "model.name=LIFFireFlowNet", "loss.clip_grad=null"]
    sets = [part for change in changes for part in ("--set", change)]
    arguments = ["--config", write_config(), "--out", out, "--threads", 1, "--json", *sets]
    assert run(*arguments, "--validation", 2, "--device", "cpu") == 0
    config = json.loads(capsys.readouterr().out)["config"]
    assert config["optimizer"]["lr"] == 1e-4 and config["loss"]["clip_grad"] is None
    assert config["data"]["validation_scenes"] == 2 and config["device"] == "cpu"
    assert load_checkpoint(out / "last.safetensors").config.model == "LIFFireFlowNet"


def test_a_folder_of_recordings(
    write_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Self-supervised, one of two recordings held out; what cannot be used is named once."""
    folder = tmp_path / "recordings"
    for seed in (1, 2):
        scene_path(folder, seed, (24, 24), 0.4)
    (folder / "broken.h5").write_bytes(b"no recording")
    config = write_config(
        {
            "path": str(folder),
            "mode": "events",
            "window": 60,
            "validation": 0.3,
            "validation_windows": 9,
        },
        loss={"kind": "contrast", "window_loss": 3},
        logging={"activity": 1},
        tracking={"kind": "none", "images_every": 1},
    )
    out = tmp_path / "run"
    arguments = ["--config", config, "--out", out, "--threads", 1]
    assert run(*arguments, "--validation", folder / "scene_1_24x24_0.4s.h5", "--json") == 0
    captured = capsys.readouterr()
    best = json.loads(captured.out)["best"]
    assert best["error"] == best["contrast"] and best["fwl"] > 0
    (warning,) = captured.err.splitlines()
    assert warning.startswith("warning: left out: ") and "broken.h5" in warning
    assert (out / "images" / "validation-000002.png").exists()
    assert run(*arguments[:2], "--out", tmp_path / "other", "--validation", 0.5) == 0
    assert "lowest error" in capsys.readouterr().out


def test_quantization_on_demand(
    write_config: Make,
    active_network: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = active_network("LIFFireNet_short", channels=2, rate=0.2)
    path = save_checkpoint(source, tmp_path / "float.safetensors")
    out = tmp_path / "run"
    arguments = ["--config", write_config(), "--out", out, "--threads", 1, "--json"]
    assert run(*arguments, "--quant", "--set", f"quant.init={path}", "--stop-after", 1) == 0
    assert json.loads(capsys.readouterr().out)["config"]["quant"]["weight_bits"] == 7
    assert (out / "best.quantized.safetensors").exists()
    assert (out / "last.qat.safetensors").exists()
    assert run("--resume", out, "--threads", 1) == 0


def test_a_run_in_mlflow(
    write_config: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Interrupted and resumed by its id it is one run, with its figures and files."""
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracking = {"kind": "mlflow", "uri": uri, "every": 1}
    config, out = write_config(updates=3, tracking=tracking, experiment="Trial"), tmp_path / "run"
    assert run("--config", config, "--out", out, "--threads", 1, "--stop-after", 1) == 0
    run_id = json.loads((out / "run.json").read_text())["run_id"]
    assert run("--resume", run_id, "--out", tmp_path / "last", "--threads", 1, "--json") == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["run_id"] == run_id and summary["updates"] == 3
    client = mlflow.MlflowClient(uri)
    recorded = client.get_run(run_id)
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params["optimizer.lr"] == "0.002"
    steps = {metric.step for metric in client.get_metric_history(run_id, "loss")}
    assert steps == {1, 2, 3}
    names = {entry.path for entry in client.list_artifacts(run_id)}
    assert {"best.safetensors", "config.yml", "summary.json"} <= names


def test_nothing_is_left_where_nothing_can_start(tmp_path: Path) -> None:
    assert run("--resume", "--out", tmp_path / "absent") == 2
    assert not (tmp_path / "absent").exists()


def test_ctrl_c(
    write_config: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The update is finished and saved; the message says how to go on, and that works."""
    update = Trainer.train_update

    def pressed(self: Trainer) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return update(self)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_update", pressed)
        assert run("--config", write_config(), "--out", out, "--threads", 1) == 130
    message = capsys.readouterr().err.splitlines()[-1]
    expected = f"interrupted after update 1; go on with: python -m training.fit --resume {out}"
    assert message == expected
    assert run("--resume", out, "--threads", 1) == 0
    updates = [json.loads(line)["update"] for line in (out / "log.jsonl").open()]
    assert updates == [1, 2]


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ({"crop": 32}, [], "crop"),
        ({"duration": 0.01}, [], "duration"),
        ({"duration": 0.05}, [], "duration"),
        ({"duration": 0.1}, [], "duration"),
        ({}, ["--resume"], "state.pt: No such file"),
        ({}, ["--threads", "0"], "--threads"),
        ({}, ["--stop-after", "0"], "--stop-after must be positive"),
        ({}, ["--config", "absent.yml"], "absent.yml: No such file"),
        ({}, ["--set", "optimizer.lr"], "expected section.key=value"),
        ({}, ["--set", "optimizer.rate=1"], "unknown key 'optimizer.rate'"),
        ({}, ["--set", "batch_size.x=1"], "batch_size is no section"),
        ({}, ["--set", "batch_size=[1"], "not valid YAML"),
        ({}, ["--set", "data.path=absent", "--set", "data.mode=gtflow_dt1"], "absent"),
        ({}, ["--validation", "0.5"], "data.validation_scenes"),
        ({}, ["--set", "precision=float16"], "float16 needs a GPU"),
    ],
)
def test_mistakes_are_one_line(
    data: dict[str, Any],
    arguments: list[str],
    message: str,
    write_config: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--config", write_config(data), "--out", tmp_path / "run", *arguments]
    assert run(*given) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], lines


def test_a_configuration_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "give --config, or --resume" in capsys.readouterr().err


def test_the_document_has_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--keys") == 0
    printed = capsys.readouterr().out.strip()
    assert printed == keys_table()
    assert printed in DOCUMENT.read_text(), "docs/training.md: paste python -m training.fit --keys"
    rows = printed.splitlines()[2:]
    assert len(rows) > 70
    for row in rows:
        assert re.fullmatch(r"\| `[\w.]+` \| (`[^`]*`)? \| \S.* \|", row), row


def test_the_document_names_only_keys_that_exist() -> None:
    """Whatever looks like section.key of a configuration in the text."""
    sections = {name for name, field in TrainingConfig.model_fields.items()}
    known = {row.split("`")[1] for row in keys_table().splitlines()[2:]}
    text = DOCUMENT.read_text().split("## Configurations of the research code")[0]
    named = {
        name
        for name in re.findall(r"`(?:--set )?([a-z_]+\.[a-z_.]+)[`:=]", text)
        if name.split(".")[0] in sections and not name.endswith((".md", ".yml"))
    }
    assert named and named <= known, named - known
