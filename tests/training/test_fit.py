"""The loop: losses by hand, gradients through time, exact resumption, the command."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calib_data import console
from models import ModelConfig, SpikingFireNet, detach, load_checkpoint
from training import fit
from training.config import ConfigError
from training.data import Sequence, _Slot
from training.losses import endpoint_error_loss
from training.validation import evaluate

Make = Callable[..., Any]


# --- loss and validation ------------------------------------------------------------------------


def pixels(*vectors: tuple[float, float]) -> torch.Tensor:
    """float32 [1, 2, 1, n] of (x, y) per pixel."""
    return torch.tensor(vectors).T.reshape(1, 2, 1, -1)


def test_loss_by_hand() -> None:
    """Errors of 5, 1 and 2 pixels at true speeds of 0, 5 and 1; events on the first two."""
    flow = pixels((3.0, 4.0), (3.0, 5.0), (0.0, 1.0))
    target = pixels((0.0, 0.0), (3.0, 4.0), (0.0, -1.0))
    counts = pixels((1.0, 0.0), (0.0, 2.0), (0.0, 0.0))
    relative = [5 / 1, 1 / 6, 2 / 2]
    for quiet in (0.0, 0.1, 1.0):
        expected = (relative[0] + relative[1] + quiet * relative[2]) / (2 + quiet)
        loss = endpoint_error_loss(flow, target, counts, quiet)
        assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_loss_has_a_gradient_everywhere() -> None:
    """Where prediction meets target, and where there is nothing to weigh."""
    target = pixels((1.0, 2.0), (0.0, 0.0))
    for counts in (torch.ones(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)):
        flow = target.clone().requires_grad_()
        endpoint_error_loss(flow, target, counts, 0.0).backward()  # type: ignore[no-untyped-call]
        assert flow.grad is not None and bool(torch.isfinite(flow.grad).all())


def test_validation_by_hand() -> None:
    """A network that always predicts its bias: errors of it, of zero, and of the mean."""
    model = SpikingFireNet(ModelConfig("LIFFireNet_short", channels=4)).eval()
    with torch.no_grad():
        model.pred.weight.zero_()
        model.pred.bias.copy_(torch.tensor([3.0, 0.0]) / 128)
        for _, layer in model.named_layers():
            layer.threshold.fill_(-1.0)  # clamped to 0.01, with a bias that always exceeds it
            layer.weight.zero_()
            layer.bias.fill_(0.5)
            if layer.weight_rec is not None:
                layer.weight_rec.zero_()
    counts = np.zeros((5, 2, 4, 4), np.uint8)
    counts[:, 0, 0, :2] = 1
    flow = np.full((5, 2, 4, 4), 77, np.float32)
    flow[:, :, 0, 0], flow[:, :, 0, 1] = [3, 4], [3, -4]
    flow[:3] = 1000  # not scored
    got = evaluate(model, Sequence(counts, flow))
    assert got.aee == pytest.approx(4, rel=1e-4)
    assert (got.zero, got.mean, got.spike_rate) == pytest.approx((5, 4, 1))


# --- gradients ----------------------------------------------------------------------------------


def first_step_gradient(steps: int, *, cut: bool) -> float:
    """|d flow of the last step / d events of the first| without recurrent convolutions."""
    torch.manual_seed(0)
    model = SpikingFireNet(ModelConfig("LIFFireFlowNet_short", channels=6))
    events = torch.full((1, 2, 8, 8), 0.5, requires_grad=True)
    flow, states = model.step(events)
    for _ in range(steps - 1):
        states = detach(states) if cut else states
        flow, states = model.step(torch.zeros(1, 2, 8, 8), states)
    (gradient,) = torch.autograd.grad(flow.sum(), events, allow_unused=True) if not cut else (None,)
    return 0.0 if gradient is None else float(gradient.abs().sum())


@pytest.mark.parametrize("steps", [2, 4])
def test_gradient_passes_through_the_membranes(steps: int) -> None:
    """Feed-forward layers remember only by their membranes, so the gradient came through them."""
    assert first_step_gradient(steps, cut=False) > 0


def test_detached_states_cut_the_gradient() -> None:
    torch.manual_seed(0)
    model = SpikingFireNet(ModelConfig("LIFFireFlowNet_short", channels=6))
    events = torch.full((1, 2, 8, 8), 0.5, requires_grad=True)
    _, states = model.step(events)
    flow, _ = model.step(torch.zeros(1, 2, 8, 8), detach(states))
    (gradient,) = torch.autograd.grad(flow.sum(), events, allow_unused=True)
    assert gradient is None


def test_every_parameter_learns(make_config: Make, make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(), tmp_path)
    for _ in range(3):
        trainer.train_update()
    for name, parameter in trainer.model.named_parameters():
        # A bias before a batch norm is subtracted again, so only rounding moves it.
        assert parameter.grad is not None, name
        if not name.endswith("bias"):
            assert float(parameter.grad.abs().max()) > 0, name
    assert all(not state.mem.requires_grad for state in trainer.states.values())


# --- the run ------------------------------------------------------------------------------------


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_fresh_slots_start_from_zero(make_config: Make, make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(), tmp_path)
    trainer.train_update()
    before = {name: state.mem.clone() for name, state in trainer.states.items()}
    trainer._reset_slots(torch.tensor([False, True, False]))
    for name, state in trainer.states.items():
        assert not state.mem[1].any() and not state.spike[1].any()
        assert torch.equal(state.mem[[0, 2]], before[name][[0, 2]])
    assert before["head"][1].any()


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_resuming_changes_nothing(
    norm: str, make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    """A run killed after 5 of 8 updates goes on from its last saved state, to the same bits."""
    model = {"name": "LIFFireNet_short", "base_num_channels": 4, "norm": norm}
    config = make_config(model=model)
    whole = make_trainer(config, tmp_path / "whole")
    summary = whole.fit()
    expected = losses(tmp_path / "whole")
    assert len(expected) == 8 and all(math.isfinite(loss) for loss in expected)

    killed = make_trainer(config, tmp_path / "killed")
    update = killed.train_update

    def dies() -> float:
        if killed.update == 5:
            raise KeyboardInterrupt
        return float(update())

    killed.train_update = dies
    with pytest.raises(KeyboardInterrupt):
        killed.fit()
    resumed = make_trainer(config, tmp_path / "killed")
    resumed.load_state()
    assert resumed.update == 3
    summary_resumed = resumed.fit()
    # Updates 4 and 5 are logged twice, with the same loss.
    assert losses(tmp_path / "killed") == expected[:5] + expected[3:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    key = "best_validation_aee"
    assert summary_resumed[key] == summary[key]
    best = [(tmp_path / name / "best.safetensors") for name in ("whole", "killed")]
    first, second = (load_checkpoint(path).state_dict() for path in best)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_another_configuration_does_not_resume(
    make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    make_trainer(make_config(updates=1), tmp_path).fit()
    with pytest.raises(ConfigError, match="was started with another configuration"):
        make_trainer(make_config(updates=2), tmp_path).load_state()


def test_the_best_network_is_kept(make_config: Make, make_trainer: Make, tmp_path: Path) -> None:
    """Without batch norm the file computes exactly what was validated."""
    model = {"name": "LIFFireNet_short", "base_num_channels": 4, "norm": "none"}
    trainer = make_trainer(make_config(model=model, validate_every=1), tmp_path)
    summary = trainer.fit()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert summary["best_validation_aee"] == min(line["aee"] for line in lines)
    kept = load_checkpoint(tmp_path / "best.safetensors")
    errors = evaluate(kept, trainer.validation[0])
    assert errors.aee == pytest.approx(summary["best_validation_aee"], rel=1e-6)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_training_lowers_the_loss(make_config: Make, make_trainer: Make, tmp_path: Path) -> None:
    """One and the same motion everywhere, which the flow head's bias alone could learn."""
    optimizer = {"lr": 0.1, "warmup_updates": 2}
    trainer = make_trainer(make_config(updates=40, optimizer=optimizer), tmp_path)
    for sequence in trainer.sampler._sequences:
        sequence.flow[:, 0], sequence.flow[:, 1] = 3.0, -2.0
    # Flips would make opposite motions of it.
    trainer.sampler._draw = lambda: _Slot(0, 0, 0, 0, False, False, False)
    trainer.sampler._slots = [trainer.sampler._draw() for _ in range(3)]
    seen = [trainer.train_update() for _ in range(40)]
    assert seen[-1] < 0.5 * seen[0]


def test_the_rate_warms_up_and_decays(
    make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    trainer = make_trainer(make_config(), tmp_path)
    rates = [trainer._rate(update) for update in range(9)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[8] == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(rates[2:]))
    groups = trainer.optimizer.param_groups
    assert groups[0]["initial_lr"] == pytest.approx(128 * groups[1]["initial_lr"])


# --- the command --------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    return console.run(fit.main, [str(argument) for argument in arguments])


def test_command(write_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = write_config(), tmp_path / "run"
    assert run("--config", config, "--out", out, "--threads", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["updates"] == 2
    names = {path.name for path in out.iterdir()}
    assert names == {"best.safetensors", "state.pt", "log.jsonl", "summary.json"}
    assert load_checkpoint(out / "best.safetensors").config.channels == 2
    assert run("--config", config, "--out", out) == 2
    assert "holds a run; pass --resume" in capsys.readouterr().err
    assert run("--config", config, "--out", out, "--resume", "--threads", 1) == 0


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ({"crop": 32}, [], "crop"),
        ({"duration": 0.01}, [], "duration"),
        ({"duration": 0.05}, [], "duration"),
        ({"duration": 0.1}, [], "duration"),
        ({}, ["--resume"], "state.pt: No such file"),
        ({}, ["--threads", "0"], "--threads"),
        ({}, ["--config", "absent.yml"], "absent.yml: No such file"),
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
