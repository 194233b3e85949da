"""Networks on their integer grid: the values of the integer network, and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models import LIFState
from quant import (
    GridSettings,
    HybridNetwork,
    IntegerNetwork,
    IntegerState,
    LayerOptions,
    QuantError,
    QuantFireNet,
    QuantOptions,
    calibrate,
    load_qat,
    quantize,
    save_qat,
)

Make = Callable[..., Any]
NAME = "LIFFireNet_short"
STEPS = 40


def on_grid(
    make: Make,
    counts: Make,
    options: QuantOptions = QuantOptions(),  # noqa: B008 (immutable)
    settings: GridSettings | None = None,
    **config: Any,
) -> QuantFireNet:
    model = make(**{"name": NAME, **config})
    windows = [torch.from_numpy(window).float() for window in counts(12, (16, 20))]
    return QuantFireNet.from_float(model, options, calibrate(model, windows), None, settings)


def compare(model: QuantFireNet, counts: Make, steps: int = STEPS) -> dict[str, float]:
    """Drive the model and the integer network of its spec side by side; spike rates."""
    network = IntegerNetwork(model.spec())
    states: dict[str, LIFState] = {}
    expected: dict[str, IntegerState] = {}
    rates: dict[str, float] = {}
    for events in counts(steps, (11, 13), 3):
        flow, states = model.step(torch.from_numpy(events).float(), states)
        states = {name: LIFState(s.mem.detach(), s.spike.detach()) for name, s in states.items()}
        result = network.step(torch.from_numpy(events), expected)
        expected = result.states
        for name, state in states.items():
            assert state.mem.dtype == torch.float32
            assert torch.equal(state.mem, expected[name].mem.float()), name
            assert torch.equal(state.spike, expected[name].spike.float()), name
            rates[name] = rates.get(name, 0.0) + float(state.spike.mean()) / steps
        acc, _ = model.pred.accumulate(states["R2a"].spike)
        assert torch.equal(acc.detach(), result.flow_acc.float())
        assert torch.equal(flow.detach(), result.flow)
    return rates


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("options", "settings", "config"),
    [
        (QuantOptions(), GridSettings(), {}),
        (QuantOptions(8, 16, 2), GridSettings(), {"reset": "subtract"}),
        (QuantOptions(4, 16), GridSettings("learned", True), {"reset": "none"}),
        (QuantOptions(3, 8, -2), GridSettings("learned"), {"reset": "subtract"}),
        (QuantOptions(7, 8), GridSettings("max", True), {}),
        (QuantOptions(2, 8, -1), GridSettings(), {"reset": "none"}),
        (QuantOptions(8, 16, current="uint8"), GridSettings(), {}),
        (QuantOptions(5, 8, current="uint8"), GridSettings("learned", True), {}),
        (QuantOptions(6, 16, 9, "uint8"), GridSettings(), {"reset": "subtract"}),
        (QuantOptions(8, layers={"G1": LayerOptions(4, 8, -3)}), GridSettings(), {}),
        (QuantOptions(8, 16), GridSettings(), {"name": "LIFFireFlowNet_short"}),
    ],
)
def test_values_are_those_of_the_integer_network(
    options: QuantOptions,
    settings: GridSettings,
    config: dict[str, Any],
    training: bool,
    active_network: Make,
    moving_counts: Make,
) -> None:
    model = on_grid(active_network, moving_counts, options, settings, **config)
    model.train(training)
    rates = compare(model, moving_counts)
    assert len(rates) == 5 and min(rates.values()) > 0


def test_a_thousand_steps(active_network: Make, moving_counts: Make) -> None:
    model = on_grid(active_network, moving_counts, QuantOptions(8, 16, 1), channels=4).eval()
    with torch.no_grad():
        assert min(compare(model, moving_counts, 1000).values()) > 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("options", "weight_scale", "config"),
    [
        (QuantOptions(neuron="float"), "max", {}),
        (QuantOptions(4, neuron="float"), "learned", {"reset": "subtract"}),
        (QuantOptions(8, neuron="float"), "learned", {"reset": "none"}),
        (QuantOptions(7, neuron="float", layers={"G1": LayerOptions(3)}), "max", {}),
    ],
)
def test_float_neurons_compute_what_the_hybrid_network_does(
    options: QuantOptions,
    weight_scale: str,
    config: dict[str, Any],
    training: bool,
    active_network: Make,
    moving_counts: Make,
) -> None:
    """Bit for bit over a sequence, before and after updates."""
    settings = GridSettings(weight_scale, neuron="float")
    model = on_grid(active_network, moving_counts, options, settings, **config).train(training)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(2):
        network, rates = HybridNetwork(model.spec()), dict.fromkeys(model.layers, 0.0)
        states: dict[str, LIFState] = {}
        expected: dict[str, LIFState] = {}
        for events in moving_counts(STEPS, (11, 13), 3):
            with torch.no_grad():
                flow, states = model.step(torch.from_numpy(events).float(), states)
            wanted, expected = network.step(torch.from_numpy(events), expected)
            assert torch.equal(flow, wanted)
            for name, state in states.items():
                assert torch.equal(state.mem, expected[name].mem), name
                assert torch.equal(state.spike, expected[name].spike), name
                rates[name] += float(state.spike.mean())
        assert min(rates.values()) > 0
        losses_gradient(model, moving_counts)
        optimizer.step()


def same_spec(first: Any, second: Any) -> None:
    for key in ("model", "weight_bits", "neuron"):
        assert getattr(first, key) == getattr(second, key)
    for one, other in zip(first.layers, second.layers, strict=True):
        for key in ("frac_bits", "mem_bits", "reset", "current", "current_scale", "weight_bits"):
            assert getattr(one, key) == getattr(other, key)
        np.testing.assert_array_equal(one.decay, other.decay)
        np.testing.assert_array_equal(one.threshold, other.threshold)
        if one.weight_rec is not None:
            np.testing.assert_array_equal(one.weight_rec, other.weight_rec)
    for one, other in zip(
        [layer.conv for layer in first.layers] + [first.head],
        [layer.conv for layer in second.layers] + [second.head],
        strict=True,
    ):
        np.testing.assert_array_equal(one.weight, other.weight)
        np.testing.assert_array_equal(one.bias, other.bias)
        np.testing.assert_array_equal(one.weight_scale, other.weight_scale)


@pytest.mark.parametrize(
    ("options", "weight_scale"),
    [
        (QuantOptions(), "max"),
        (QuantOptions(8, 8), "max"),
        (QuantOptions(4, 16, current="uint8"), "max"),
        (QuantOptions(8, 16), "learned"),
        (QuantOptions(4, 16, scale_search=True), "learned"),
        (QuantOptions(7, layers={"G1": LayerOptions(4), "R1a": LayerOptions(5)}), "max"),
        (QuantOptions(4, neuron="float"), "max"),
    ],
)
def test_training_starts_at_the_quantized_network(
    options: QuantOptions, weight_scale: str, active_network: Make, moving_counts: Make
) -> None:
    model = active_network(NAME)
    with torch.no_grad():
        model.layers["R1a"].weight[1] = 0
    windows = [torch.from_numpy(window).float() for window in moving_counts(12, (16, 20))]
    calibration = calibrate(model, windows)
    settings = GridSettings(weight_scale, neuron=options.neuron)
    trained = QuantFireNet.from_float(model, options, calibration, None, settings)
    same_spec(trained.spec(), quantize(model, options, calibration))


def losses_gradient(model: QuantFireNet, counts: Make) -> None:
    states, loss = None, torch.zeros(())
    for events in counts(8, (11, 13)):
        flow, states = model.step(torch.from_numpy(events).float(), states)
        loss = loss + ((flow * 128 - 1.0) ** 2).mean()
    loss.backward()


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (QuantOptions(4, 16), GridSettings("learned", True)),
        (QuantOptions(8, 8, -2), GridSettings("max", True)),
        (QuantOptions(8, 16, current="uint8"), GridSettings("learned", True)),
        (QuantOptions(4, neuron="float"), GridSettings("learned", neuron="float")),
    ],
)
def test_gradients_reach_every_parameter(
    options: QuantOptions, settings: GridSettings, active_network: Make, moving_counts: Make
) -> None:
    model = on_grid(active_network, moving_counts, options, settings, reset="subtract").train()
    losses_gradient(model, moving_counts)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_gradients_are_those_of_the_float_network_on_a_fine_grid(
    active_network: Make, moving_counts: Make
) -> None:
    """With 8-bit weights and a fine membrane, rounding hardly changes the backward pass."""
    source = active_network(NAME, rate=0.3)
    model = QuantFireNet.from_float(source, QuantOptions(8, 16, 4)).train()
    events = torch.from_numpy(moving_counts(1, (11, 13))[0]).float()
    gradients = []
    for network in (source, model):
        spike, _ = network.named_layers()[0][1](events)
        weight = torch.linspace(-1, 1, spike.numel()).view_as(spike)
        (spike * weight).sum().backward()
    layer, grid_layer = source.layers["head"], model.layers["head"]
    for one, other in (
        (layer.weight.grad, grid_layer.conv.weight.grad),
        (layer.bias.grad, grid_layer.conv.bias.grad),
        (layer.threshold.grad, grid_layer.threshold.grad),
    ):
        gradients.append(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), 0))
        assert float((one - other).norm() / one.norm()) < 0.1
    assert min(gradients) > 0.99


def test_values_stay_those_of_the_integer_network_while_training(
    active_network: Make, moving_counts: Make
) -> None:
    options = QuantOptions(4, 8)
    model = on_grid(active_network, moving_counts, options, GridSettings("learned", True))
    before = model.spec()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(4):
        optimizer.zero_grad()
        losses_gradient(model.train(), moving_counts)
        optimizer.step()
    assert any(
        (one.conv.weight != other.conv.weight).any()
        for one, other in zip(before.layers, model.spec().layers, strict=True)
    )
    assert min(compare(model.eval(), moving_counts).values()) > 0


def test_autocast_changes_nothing(active_network: Make, moving_counts: Make) -> None:
    model = on_grid(active_network, moving_counts, QuantOptions(8, 16, current="uint8")).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        # The very context in which a plain convolution is no longer exact.
        assert torch.nn.functional.conv2d(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).dtype == (
            torch.bfloat16
        )
        assert min(compare(model, moving_counts).values()) > 0


def test_a_checkpoint_remembers_bits_and_neuron(active_network: Make, tmp_path: Any) -> None:
    options = QuantOptions(7, layers={"G1": LayerOptions(4), "pred": LayerOptions(8)})
    for neuron in ("integer", "float"):
        model = QuantFireNet.from_float(active_network(NAME), replace(options, neuron=neuron))
        loaded = load_qat(save_qat(model, tmp_path / "qat.safetensors"))
        same_spec(loaded.spec(), model.spec())
        assert loaded.spec().neuron == neuron
        assert [layer.weight_bits for layer in loaded.spec().layers] == [7, 4, 7, 7, 7]
        assert loaded.spec().weight_bits == 8


@pytest.mark.parametrize("settings", [GridSettings(), GridSettings("learned", True)])
def test_a_checkpoint_brings_everything_back(
    settings: GridSettings, active_network: Make, moving_counts: Make, tmp_path: Any
) -> None:
    options = QuantOptions(5, 8, current="uint8", layers={"pred": LayerOptions(weight_bits=8)})
    model = on_grid(active_network, moving_counts, options, settings, reset="subtract")
    model.checkpoint_sha256 = "abc"
    losses_gradient(model.train(), moving_counts)
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    loaded = load_qat(save_qat(model, tmp_path / "qat.safetensors"))
    assert loaded.checkpoint_sha256 == "abc" and not loaded.training
    same_spec(loaded.spec(), model.spec())
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_loading_keeps_the_parameters_that_an_optimiser_holds(active_network: Make) -> None:
    settings = GridSettings("learned", True)
    model = QuantFireNet.from_float(active_network(NAME), settings=settings)
    held = dict(model.named_parameters())
    other = QuantFireNet.from_float(active_network(NAME, 1), settings=settings)
    model.load_state_dict(other.state_dict())
    same_spec(model.spec(), other.spec())
    assert all(parameter is held[name] for name, parameter in model.named_parameters())


def test_other_files_are_refused(active_network: Make, tmp_path: Any) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError):
        load_qat(path)
    path.write_bytes(b"no")
    with pytest.raises(QuantError, match=r"x\.safetensors: not a readable safetensors file"):
        load_qat(path)


def test_impossible_settings(active_network: Make, moving_counts: Make) -> None:
    model = active_network(NAME)
    with pytest.raises(QuantError, match="weight_scale must be max or learned, got 'mse'"):
        QuantFireNet.from_float(model, settings=GridSettings("mse"))
    with pytest.raises(QuantError, match="searched scales need weight_scale learned"):
        QuantFireNet.from_float(model, QuantOptions(scale_search=True))
    with pytest.raises(QuantError, match="training finds weight scales per channel"):
        QuantFireNet.from_float(model, QuantOptions(per_tensor=True))
    with pytest.raises(QuantError, match="neuron must be integer or float, got 'soft'"):
        GridSettings(neuron="soft").check()
    with pytest.raises(QuantError, match="options are for float neurons, settings for integer"):
        QuantFireNet.from_float(model, QuantOptions(neuron="float"), settings=GridSettings())
    learned = GridSettings("max", True, "float")
    with pytest.raises(QuantError, match="float neurons have no ranges to learn; leave out learn"):
        QuantFireNet.from_float(model, QuantOptions(neuron="float"), settings=learned)
    trained = QuantFireNet.from_float(model)
    with torch.no_grad():
        trained.layers["G1"].conv.bias[0] = 1e5
    with pytest.raises(QuantError, match=r"sums of a layer .* more than the 2\^24"):
        trained.step(torch.from_numpy(moving_counts(1, (5, 5))[0]).float())


def test_the_convolution_in_real_units(active_network: Make, moving_counts: Make) -> None:
    """Brevitas computes the same convolution; its input quantizer has a scale of exactly 1."""
    layer = QuantFireNet.from_float(active_network(NAME), QuantOptions(5)).eval().layers["G1"]
    x = torch.randint(0, 2, (1, 16, 9, 10)).float()
    with torch.no_grad():
        weights = layer.conv.grid()
        exact = layer.conv.accumulate(x, weights) * weights.scale.view(1, -1, 1, 1)
        assert torch.allclose(layer.conv(x), exact, atol=1e-5)
        assert float(layer.conv.input_quant(x).scale) == 1.0
        assert torch.equal(layer.conv.input_quant(x).value, x)


def test_the_quantizer_of_currents(active_network: Make, moving_counts: Make) -> None:
    options = QuantOptions(8, 16, current="uint8")
    layer = on_grid(active_network, moving_counts, options).eval().layers["G1"]
    scale = layer.spec("G1").current_scale
    current = torch.arange(-300, 300).float().view(1, 1, 1, -1) * scale
    got = layer.current_quantizer().eval()(current)
    assert torch.equal(got, torch.arange(-300, 300).clamp(-128, 127).view_as(got) * scale)
    plain = QuantFireNet.from_float(active_network(NAME)).layers["G1"]
    with pytest.raises(QuantError, match="not requantized"):
        plain.current_quantizer()
