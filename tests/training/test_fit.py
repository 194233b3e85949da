"""The loop: gradients through time, exact resumption, what is skipped, when it stops."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models import (
    ModelConfig,
    SpikingFireNet,
    detach,
    load_checkpoint,
    load_network,
    save_checkpoint,
)
from training.config import ConfigError
from training.contrast import contrast_loss
from training.optimization import rate
from training.run_folder import TrainingError
from training.trainer import Trainer
from training.validation import evaluate, event_batch, validate

Make = Callable[..., Any]
SHORT = {"name": "LIFFireNet_short", "base_num_channels": 4}


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in records(folder)]


# --- gradients ----------------------------------------------------------------------------------


def first_step_gradient(steps: int) -> float:
    """|d flow of the last step / d events of the first| without recurrent convolutions."""
    torch.manual_seed(0)
    model = SpikingFireNet(ModelConfig("LIFFireFlowNet_short", channels=6))
    events = torch.full((1, 2, 8, 8), 0.5, requires_grad=True)
    flow, states = model.step(events)
    for _ in range(steps - 1):
        flow, states = model.step(torch.zeros(1, 2, 8, 8), states)
    (gradient,) = torch.autograd.grad(flow.sum(), events)
    return float(gradient.abs().sum())


@pytest.mark.parametrize("steps", [2, 4])
def test_gradient_passes_through_the_membranes(steps: int) -> None:
    """Feed-forward layers remember only by their membranes, so the gradient came through them."""
    assert first_step_gradient(steps) > 0


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


def test_fixed_neurons_stay(
    make_config: Make, make_trainer: Make, parameters: Make, tmp_path: Path
) -> None:
    neuron = {"learn_leak": False, "learn_threshold": False, "leak": [0.25, 0.25]}
    trainer = make_trainer(make_config(model=SHORT | {"spiking_neuron": neuron}), tmp_path)
    before = parameters(trainer)
    assert bool((before["layers.head.beta"] == 0.25).all())
    for _ in range(2):
        assert trainer.train_update().skipped is None
    after = parameters(trainer)
    fixed = {key for key in before if key.endswith(("beta", "threshold"))}
    assert len(fixed) == 10
    for key in before:
        if key in fixed:
            assert torch.equal(before[key], after[key]), key
    assert not torch.equal(before["layers.head.weight"], after["layers.head.weight"])


def test_neurons_start_as_those_of_event_flow(
    make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    """Mean and deviation of the raw parameters: decay sigmoid(-2), threshold 0.8 / (1 - decay)."""
    neuron = {"distribution": "event_flow", "leak": [-2.0, 0.0], "threshold": [0.8, 0.0]}
    trainer = make_trainer(make_config(model=SHORT | {"spiking_neuron": neuron}), tmp_path)
    decay = 1 / (1 + math.exp(2))
    for _, layer in trainer.model.named_layers():
        assert layer.effective_beta().tolist() == pytest.approx([decay] * 4, rel=1e-6)
        assert layer.effective_threshold().tolist() == pytest.approx([0.8 / (1 - decay)] * 4)
    neuron |= {"leak": [-2.0, 0.5], "threshold": [-1.0, 0.0]}
    layer = make_trainer(make_config(model=SHORT | {"spiking_neuron": neuron}), tmp_path).model
    beta, threshold = (layer.layers.head.beta.detach(), layer.layers.head.threshold.detach())
    assert float(beta.std()) > 0
    assert (threshold * (1 - beta)).tolist() == pytest.approx([0.01] * 4)


@pytest.mark.parametrize("name", ["LIFFireNet", "LIFFireFlowNet", "LIFFireNet_short"])
@pytest.mark.filterwarnings("ignore:model.init:UserWarning")
def test_a_run_starts_from_a_checkpoint(
    name: str, make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    source = SpikingFireNet(ModelConfig(channels=4))
    save_checkpoint(source, tmp_path / "source.safetensors")
    model = {"name": name, "base_num_channels": 4, "init": str(tmp_path / "source.safetensors")}
    trainer = make_trainer(make_config(model=model), tmp_path / "run")
    for key, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[key]), key


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"base_num_channels": 8}, "is a LIFFireNet_short with 4 channels and has no layers.head"),
        ({"name": "LIFFireNet"}, r"has no layers\.R1b\.weight of shape \[4, 4, 3, 3\]"),
        ({"encoding": "voxel"}, "has encoding cnt, and the configuration voxel"),
        ({"flow_scaling": 64.0}, "has flow_scaling 128.0, and the configuration 64.0"),
        ({"spiking_neuron": {"hard_reset": False}}, "has reset zero, and the configuration sub"),
    ],
)
def test_checkpoints_of_other_networks_are_refused(
    model: dict[str, Any], told: str, make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    source = SpikingFireNet(ModelConfig(model="LIFFireNet_short", channels=4))
    save_checkpoint(source, tmp_path / "source.safetensors")
    given = {"name": "LIFFireNet_short", "base_num_channels": 4} | model
    config = make_config(model=given | {"init": str(tmp_path / "source.safetensors")})
    with pytest.raises(ConfigError, match=told):
        make_trainer(config, tmp_path / "run")


def test_a_start_without_its_uses_is_refused(make_config: Make) -> None:
    with pytest.raises(ValidationError, match="whose norms are folded"):
        make_config(model={"init": "net.safetensors", "norm": "batch"})
    with pytest.raises(ValidationError, match=r"start from quant\.init"):
        make_config(model={"init": "net.safetensors"}, quant={})


def test_fresh_slots_start_from_zero(make_config: Make, make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(), tmp_path)
    trainer.train_update()
    before = {name: state.mem.clone() for name, state in trainer.states.items()}
    trainer._reset_slots(torch.tensor([False, True, False]))
    for name, state in trainer.states.items():
        assert not state.mem[1].any() and not state.spike[1].any()
        assert torch.equal(state.mem[[0, 2]], before[name][[0, 2]])
    assert before["head"][1].any()


def test_gradients_are_clipped(make_config: Make, make_trainer: Make, tmp_path: Path) -> None:
    """Plain gradient descent moves the parameters by the rate times the clipped norm at most."""
    moved = []
    for clip in (1e-3, None):
        config = make_config(
            loss={"window_loss": 3, "clip_grad": clip},
            optimizer={"name": "SGD", "lr": 0.5, "warmup_updates": 0, "scale_head": False},
        )
        trainer = make_trainer(config, tmp_path)
        before = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        norm = trainer.train_update().grad_norm
        after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        moved.append(float((after - before).norm()))
    assert norm > 2e-3
    assert moved == pytest.approx([0.5e-3, 0.5 * norm], rel=1e-3)


# --- resumption ---------------------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no norm, AdamW": {
        "model": SHORT | {"norm": "none"},
        "optimizer": {"name": "AdamW", "weight_decay": 0.1, "warmup_updates": 4},
    },
    # A rate so small that no validation is better by a ten-thousandth.
    "plateau, momentum": {
        "model": SHORT | {"norm": "none"},
        "optimizer": {
            "name": "SGD",
            "momentum": 0.9,
            "nesterov": True,
            "lr": 1e-5,
            "warmup_updates": 1,
            "schedule": "plateau",
            "plateau_patience": 0,
        },
        "validate_every": 2,
        "early_stop": {"patience": 20, "min_delta": 100.0},
    },
    "contrast": {"loss": {"kind": "contrast", "window_loss": 3}},
    "mixed, bfloat16": {
        "loss": {"kind": "mixed", "window_loss": 2, "contrast_weight": 0.1},
        "precision": "bfloat16",
    },
    "time steps told apart": {"model": SHORT | {"norm": "time", "surrogate": "superspike"}},
    "voxel grid": {"model": SHORT | {"encoding": "voxel", "norm_input": True}},
    "without spikes": {"model": {"name": "FireNet", "base_num_channels": 4, "norm": "none"}},
}


@pytest.mark.parametrize("case", CASES)
def test_resuming_changes_nothing(
    case: str, make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    """A run killed after 5 of 8 updates goes on from its last saved state, to the same bits."""
    config = make_config(**CASES[case])
    whole = make_trainer(config, tmp_path / "whole")
    summary = whole.fit()
    expected = losses(tmp_path / "whole")
    assert len(expected) == 8 and all(math.isfinite(loss) for loss in expected)

    killed = make_trainer(config, tmp_path / "killed")
    update = killed.train_update

    def dies() -> Any:
        if killed.standing.update == 5:
            raise KeyboardInterrupt
        return update()

    killed.train_update = dies
    with pytest.raises(KeyboardInterrupt):
        killed.fit()
    assert losses(tmp_path / "killed") == expected[:5]
    torch.rand(3)
    resumed = make_trainer(config, tmp_path / "killed")
    resumed.load_state()
    assert resumed.standing.update == 3
    assert losses(tmp_path / "killed") == expected[:3]
    summary_resumed = resumed.fit()
    assert losses(tmp_path / "killed") == expected
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    same = ("updates", "stopped", "skipped", "best_error", "best", "config")
    assert {key: summary[key] for key in same} == {key: summary_resumed[key] for key in same}
    kept = [(tmp_path / name / "best.safetensors") for name in ("whole", "killed")]
    first, second = (load_network(path).state_dict() for path in kept)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_stopping_early_on_purpose_changes_nothing(
    make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    """--stop-after validates where the schedule would not; early stop and rates must not see it."""
    config = make_config(**CASES["plateau, momentum"])
    make_trainer(config, tmp_path / "whole").fit()
    summary = make_trainer(config, tmp_path / "parts").fit(stop_after=5)
    assert summary["stopped"] == "stop after" and summary["updates"] == 5
    assert "aee" in records(tmp_path / "parts")[-1]
    resumed = make_trainer(config, tmp_path / "parts")
    resumed.load_state()
    assert resumed.fit()["stopped"] == "finished"
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    rates = [record["lr"] for record in records(tmp_path / "parts")]
    assert rates == [record["lr"] for record in records(tmp_path / "whole")]
    assert rates[0] == 1e-5 and rates[-1] < 4e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"updates": 2}, "was started with another configuration: updates 1 there, 2 here"),
        ({"loss": {"window_loss": 2}}, "loss.window_loss 3 there, 2 here"),
    ],
)
def test_another_configuration_does_not_resume(
    change: dict[str, Any],
    message: str,
    make_config: Make,
    make_trainer: Make,
    tmp_path: Path,
) -> None:
    make_trainer(make_config(updates=1), tmp_path).fit()
    with pytest.raises(ConfigError, match=message):
        make_trainer(make_config(**{"updates": 1, **change}), tmp_path).load_state()


def test_what_is_recorded_may_change(make_config: Make, make_trainer: Make, tmp_path: Path) -> None:
    make_trainer(make_config(), tmp_path).fit(stop_after=1)
    other = make_config(logging={"activity": 1}, experiment="Other", checkpoints={"last": False})
    trainer = make_trainer(other, tmp_path)
    trainer.load_state()
    assert trainer.standing.update == 1


# --- skipped updates ----------------------------------------------------------------------------


def snapshot(trainer: Trainer) -> list[torch.Tensor]:
    moments = [
        value.clone()
        for state in trainer.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    return [value.clone() for value in trainer.model.state_dict().values()] + moments


@pytest.mark.parametrize("where", ["loss", "gradient", "states"])
def test_what_is_not_finite_is_skipped(
    where: str,
    make_config: Make,
    make_trainer: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parameters, moments and batch norm statistics stay, and the next update is a usual one."""
    trainer = make_trainer(make_config(), tmp_path)
    trainer.train_update()
    before = snapshot(trainer)
    if where == "states":
        # An overflow in a membrane would come back in every later update.
        for state in trainer.states.values():
            state.mem.fill_(math.inf)
        monkeypatch.setattr(trainer, "_reset_slots", lambda fresh: None)
        expected = "the gradient's norm is nan"
    else:
        factor = torch.tensor(math.nan if where == "loss" else 1.0)

        def broken(section: Any, flow: torch.Tensor, chunk: Any) -> torch.Tensor:
            if where == "gradient":
                # The root's slope at zero is infinite, and zero times that is no number.
                return torch.sqrt((flow * 0).abs().sum())
            return flow.sum() * factor

        monkeypatch.setattr("training.trainer.chunk_loss", broken)
        expected = "the loss is nan" if where == "loss" else "the gradient's norm is nan"
    update = trainer.train_update()
    assert update.skipped == expected
    assert trainer.states is None
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(trainer), strict=True))
    monkeypatch.undo()
    assert trainer.train_update().skipped is None
    standing = trainer.standing
    assert (standing.update, standing.skipped, standing.skipped_in_a_row) == (3, 1, 0)


def test_too_many_skips_end_the_run(
    make_config: Make, make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(make_config(skip_limit=3, checkpoint_every=2), tmp_path)
    update = trainer.train_update

    def breaks() -> Any:
        if trainer.standing.update == 4:
            monkeypatch.setattr("training.trainer.chunk_loss", lambda s, flow, c: flow.sum() / 0)
        return update()

    trainer.train_update = breaks
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    message = str(caught.value)
    assert message.startswith("update 7: 3 updates in a row were skipped")
    assert "the loss is" in message and "the last saved state is intact" in message
    assert [record.get("skipped") is not None for record in records(tmp_path)] == [False] * 4 + [
        True
    ] * 3
    monkeypatch.undo()
    resumed = make_trainer(make_config(skip_limit=3, checkpoint_every=2), tmp_path)
    resumed.load_state()
    assert all(bool(torch.isfinite(value).all()) for value in resumed.model.state_dict().values())


def test_a_broken_network_does_not_replace_the_state(
    make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    trainer = make_trainer(make_config(), tmp_path)
    trainer.train_update()
    trainer.save_state()
    saved = (tmp_path / "state.pt").read_bytes()
    with torch.no_grad():
        trainer.model.pred.bias.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"update 1: pred\.bias is no longer finite"):
        trainer.save_state()
    assert (tmp_path / "state.pt").read_bytes() == saved


@pytest.mark.parametrize(
    ("kind", "events", "truth", "reason"),
    [
        ("contrast", False, True, "no events"),
        ("supervised", True, False, "no ground truth"),
        ("mixed", False, False, "neither events nor ground truth"),
        ("contrast", True, False, None),
        ("supervised", False, True, None),
        ("mixed", True, False, None),
    ],
)
def test_chunks_that_teach_nothing(
    kind: str,
    events: bool,
    truth: bool,
    reason: str | None,
    make_config: Make,
    make_trainer: Make,
    tmp_path: Path,
) -> None:
    trainer = make_trainer(make_config(loss={"kind": kind, "window_loss": 3}), tmp_path)
    trainer.train_update()
    draw = trainer.sampler.next_chunk

    def bare() -> Any:
        chunk = draw()
        if not events:
            none = chunk.events and type(chunk.events)(*map(torch.zeros_like, chunk.events))
            zeros, empty = torch.zeros_like(chunk.inputs), torch.zeros_like(chunk.mask)
            chunk = chunk._replace(inputs=zeros, mask=empty, events=none)
        return chunk if truth else chunk._replace(flow=torch.full_like(chunk.flow, math.nan))

    trainer.sampler.next_chunk = bare
    before, mem = snapshot(trainer), trainer.states["head"].mem.clone()
    update = trainer.train_update()
    assert update.skipped == reason
    if reason is None:
        assert math.isfinite(update.loss)
    else:
        assert all(torch.equal(a, b) for a, b in zip(before, snapshot(trainer), strict=True))
        assert not torch.equal(trainer.states["head"].mem, mem)


# --- what is kept, and when it stops ------------------------------------------------------------


def test_the_best_network_is_kept(make_config: Make, make_trainer: Make, tmp_path: Path) -> None:
    """Without batch norm the file computes exactly what was validated."""
    config = make_config(
        model=SHORT | {"norm": "none"}, validate_every=1, checkpoints={"lowest_loss": True}
    )
    trainer = make_trainer(config, tmp_path)
    summary = trainer.fit()
    lines = records(tmp_path)
    assert summary["best_validation_aee"] == min(line["aee"] for line in lines)
    best = min(lines, key=lambda line: line["aee"])
    assert summary["best"]["update"] == best["update"]
    assert best["ratio"] == pytest.approx(best["aee"] / best["zero"])
    kept = load_checkpoint(tmp_path / "best.safetensors")
    errors = evaluate(kept, trainer.validation[0])
    assert errors.aee == pytest.approx(summary["best_validation_aee"], rel=1e-6)
    last = load_checkpoint(tmp_path / "last.safetensors")
    assert torch.equal(last.pred.bias, trainer.model.pred.bias)
    assert (tmp_path / "lowest_loss.safetensors").exists()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_without_held_out_data_the_training_loss_decides(
    make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    trainer = make_trainer(make_config(validate_every=2), tmp_path)
    trainer.validation = []
    summary = trainer.fit()
    means = [np.mean(pair) for pair in np.reshape(losses(tmp_path), (4, 2))]
    assert summary["best_error"] == pytest.approx(min(means), rel=1e-6)
    assert summary["best_validation_aee"] is None
    assert (tmp_path / "best.safetensors").exists()


def test_early_stop(make_config: Make, make_trainer: Make, tmp_path: Path) -> None:
    """Nothing improves by 100 pixels: the first validation sets the mark, two more miss it."""
    config = make_config(validate_every=2, early_stop={"patience": 2, "min_delta": 100.0})
    summary = make_trainer(config, tmp_path).fit()
    assert summary["stopped"] == "early stop" and summary["updates"] == 6
    again = make_trainer(config, tmp_path)
    again.load_state()
    assert again.fit()["updates"] == 6


def test_interruption_saves_after_the_update(
    make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    trainer = make_trainer(make_config(), tmp_path / "whole")
    trainer.fit()
    asked = iter([False, True])
    first = make_trainer(make_config(), tmp_path / "parts")
    summary = first.fit(interrupted=lambda: next(asked))
    assert summary["stopped"] == "interrupted" and summary["updates"] == 2
    second = make_trainer(make_config(), tmp_path / "parts")
    second.load_state()
    second.fit()
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_a_full_disk_ends_the_run_in_one_line(
    make_config: Make, make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(make_config(), tmp_path / "run")
    write = Path.write_bytes

    def full(path: Path, data: Any) -> int:
        if trainer.standing.update > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TrainingError, match=r"state\.pt: cannot be written \(No space left"):
        trainer.fit()
    monkeypatch.undo()
    whole = make_trainer(make_config(), tmp_path / "whole")
    whole.fit()
    resumed = make_trainer(make_config(), tmp_path / "run")
    resumed.load_state()
    assert resumed.standing.update == 3
    resumed.fit()
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_training_lowers_the_loss(make_config: Make, make_trainer: Make, tmp_path: Path) -> None:
    """One and the same motion everywhere, which the flow head's bias alone could learn."""
    still = {"horizontal": 0, "vertical": 0, "polarity": 0}
    config = make_config(
        updates=40,
        optimizer={"lr": 0.1, "warmup_updates": 2},
        data={"crop": 8, "augment": still},
    )
    trainer = make_trainer(config, tmp_path, motion=(3.0, -2.0))
    seen = [trainer.train_update().loss for _ in range(40)]
    assert seen[-1] < 0.5 * seen[0]


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop", "NAdam", "Adagrad", "Muon"])
def test_optimisers(name: str, make_config: Make, make_trainer: Make, tmp_path: Path) -> None:
    config = make_config(optimizer={"name": name, "lr": 1e-3, "warmup_updates": 0})
    trainer = make_trainer(config, tmp_path)
    before = trainer.model.pred.weight.clone()
    assert trainer.train_update().skipped is None
    assert type(trainer.optimizer).__name__ == name
    assert not torch.equal(before, trainer.model.pred.weight)


def test_the_rate_warms_up_and_decays(
    make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    trainer = make_trainer(make_config(), tmp_path)
    rates = [rate(trainer.config.optimizer, update, 8) for update in range(9)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[8] == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(rates[2:]))
    groups = trainer.optimizer.param_groups
    assert groups[0]["initial_lr"] == pytest.approx(128 * groups[1]["initial_lr"])
    flat = make_config(optimizer={"schedule": "constant", "warmup_updates": 2, "scale_head": False})
    assert [rate(flat.optimizer, update, 8) for update in range(4)] == [0.5, 1, 1, 1]
    groups = make_trainer(flat, tmp_path).optimizer.param_groups
    assert groups[0]["initial_lr"] == groups[1]["initial_lr"]


def test_epochs_set_the_length(make_config: Make, make_trainer: Make, tmp_path: Path) -> None:
    """5 + 7 + 9 + 11 = 32 windows, of which an update takes 3 of each of 3 slots."""
    assert make_trainer(make_config(epochs=2), tmp_path).updates == math.ceil(64 / 9)


# --- statistics ---------------------------------------------------------------------------------


def test_gradients_and_activity_are_logged(
    make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    config = make_config(logging={"gradients": 2, "activity": 4})
    trainer = make_trainer(config, tmp_path)
    trainer.fit()
    with (tmp_path / "gradients.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name, _ in trainer.model.named_parameters()]
    assert [row["parameter"] for row in rows] == 4 * names
    assert {row["update"] for row in rows} == {"2", "4", "6", "8"}
    assert all(0 <= float(row["zeros"]) <= 1 for row in rows)
    for line in records(tmp_path):
        squares = [norm**2 for norm in line.get("gradients", {}).values()]
        if squares:
            # Clipping to norm 1 came between.
            assert math.sqrt(sum(squares)) == pytest.approx(min(1.0, line["grad_norm"]), rel=1e-4)
    active = [line["activity"] for line in records(tmp_path) if "activity" in line]
    assert len(active) == 2
    assert list(active[0]) == ["input", "head", "G1", "R1a", "G2", "R2a"]
    assert 0.2 < active[0]["input"] < 0.45 and 0 < active[0]["head"] < 1


class Notes:
    """A recorder that remembers."""

    run_id = "0123"

    def __init__(self) -> None:
        self.values: dict[int, dict[str, float]] = {}
        self.images: list[tuple[str, tuple[int, ...], int]] = []

    def metrics(self, values: dict[str, float], step: int) -> None:
        self.values[step] = dict(values)

    def image(self, name: str, rgb: Any, step: int) -> None:
        self.images.append((name, rgb.shape, step))


def test_the_recorder_is_told(make_config: Make, make_trainer: Make, tmp_path: Path) -> None:
    config = make_config(tracking={"kind": "none", "every": 3, "images_every": 2})
    trainer = make_trainer(config, tmp_path)
    trainer.recorder = notes = Notes()
    summary = trainer.fit()
    assert summary["run_id"] == "0123"
    assert list(notes.values) == [3, 4, 6, 8]
    assert notes.values[3]["loss"] == records(tmp_path)[2]["loss"]
    assert notes.values[8]["aee"] == records(tmp_path)[7]["aee"]
    ((name, shape, step),) = notes.images
    assert (name, step) == ("validation", 8)
    assert shape == (16, 5 * 16 + 4 * 2, 3)


# --- validation ---------------------------------------------------------------------------------


def constant_network(x: float, y: float) -> SpikingFireNet:
    """Predicts (x, y) pixels everywhere, and every neuron fires always."""
    model = SpikingFireNet(ModelConfig("LIFFireNet_short", channels=4)).eval()
    with torch.no_grad():
        model.pred.weight.zero_()
        model.pred.bias.copy_(torch.atanh(torch.tensor([x, y]) / 128))
        for _, layer in model.named_layers():
            layer.threshold.fill_(0.01)
            layer.weight.zero_()
            layer.bias.fill_(0.5)
            if layer.weight_rec is not None:
                layer.weight_rec.zero_()
    return model


def test_validation_by_hand(make_sequence: Make) -> None:
    """A network that always predicts its bias: errors of it, of zero, and of the means."""
    counts = np.zeros((5, 2, 4, 4), np.uint8)
    counts[:, 0, 0, :2] = 1
    flow = np.full((5, 2, 4, 4), 77, np.float32)
    flow[:, :, 0, 0], flow[:, :, 0, 1] = [3, 4], [3, -4]
    flow[:3] = 1000  # not scored
    got = evaluate(constant_network(3, 0), make_sequence(counts, flow))
    assert got.aee == pytest.approx(4, rel=1e-4)
    assert (got.zero, got.mean, got.spike_rate) == pytest.approx((5, 4, 1))
    assert got.outliers == 1 and got.ratio == pytest.approx(0.8, rel=1e-4)


def test_validation_is_the_mean_over_sequences_whatever_their_sizes(
    make_config: Make, make_sequence: Make
) -> None:
    """Batches of equal size give what one at a time gives; pixels without truth do not count."""
    rng = np.random.default_rng(0)
    sequences = []
    for length, side in [(5, 8), (6, 8), (5, 8), (5, 6)]:
        counts = rng.poisson(0.5, (length, 2, side, side)).astype(np.uint8)
        flow = rng.normal(0, 4, (length, 2, side, side)).astype(np.float32)
        flow[:, :, 0] = np.nan
        sequences.append(make_sequence(counts, flow))
    torch.manual_seed(1)
    model = SpikingFireNet(ModelConfig("LIFFireNet_short", channels=4))
    alone = [evaluate(model.eval(), sequence).as_dict() for sequence in sequences]
    together = validate(model, sequences, make_config(), torch.device("cpu"))
    assert model.training
    for key in ("aee", "zero", "mean", "sequence_mean", "outliers", "spike_rate"):
        expected = np.mean([row[key] for row in alone])
        assert together[key] == pytest.approx(expected, rel=1e-5), key
    assert together["error"] == together["aee"]
    assert together["ratio"] == pytest.approx(together["aee"] / together["zero"])


def test_a_sequence_too_short_to_score(make_sequence: Make) -> None:
    sequence = make_sequence(np.ones((3, 2, 4, 4), np.uint8), np.ones((3, 2, 4, 4), np.float32))
    with pytest.raises(ConfigError, match="has 3 windows, of which the first 3 are not scored"):
        evaluate(constant_network(0, 0), sequence)


def test_recordings_without_truth_are_validated_by_contrast(
    make_config: Make, make_trainer: Make, tmp_path: Path
) -> None:
    """Two chunks of three windows each; the flow warp loss of no motion is 1."""
    config = make_config(loss={"kind": "contrast", "window_loss": 3})
    trainer = make_trainer(config, tmp_path)
    (held_out,) = trainer.validation
    held_out.flow[:] = np.nan
    summary = trainer.fit()
    assert summary["best_validation_aee"] is None
    best = summary["best"]
    assert summary["best_error"] == best["error"] == best["contrast"]
    assert {"fwl", "spike_rate", "train_loss"} <= best.keys() and "aee" not in best

    still = constant_network(0, 0)
    values = validate(still, [held_out], config, torch.device("cpu"))
    assert values["fwl"] == 1 and values["spike_rate"] == 1
    parts = [held_out.cut(start, start + 3) for start in (0, 3)]
    expected = [
        contrast_loss(
            torch.zeros(3, 1, 2, 16, 16),
            event_batch(part),
            torch.from_numpy(part.counts.any(1))[:, None, None],
            flow_regul_weight=0.001,
        )
        for part in parts
    ]
    assert values["contrast"] == pytest.approx(float(sum(expected)) / 2, rel=1e-5)


def test_events_of_a_sequence_as_a_batch(
    make_trainer: Make, make_config: Make, tmp_path: Path
) -> None:
    (sequence,) = make_trainer(make_config(), tmp_path).validation
    batch = event_batch(sequence)
    assert batch.t.shape == (6, 1, int(sequence.counts.sum((1, 2, 3)).max()))
    for step, counts in enumerate(sequence.counts):
        image = np.zeros((2, 16, 16))
        t, y, x, p = (part[step, 0].numpy() for part in batch)
        for sign, channel in ((1, 0), (-1, 1)):
            chosen = p == sign
            np.add.at(image[channel], (y[chosen].astype(int), x[chosen].astype(int)), 1)
        assert np.array_equal(image, counts)
        assert (np.diff(t[p != 0]) >= 0).all()
