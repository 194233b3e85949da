"""The convolutions of a float artifact alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator

from bench.float_convolutions import FloatConvolutions, has_neurons, without_neurons
from runtime import load_model

SIZE = (12, 16)


def operators(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_everything_but_the_neurons_is_left(make_file: Any) -> None:
    loaded = load_model(make_file("net.float.onnx", kind="float"))
    rest = without_neurons(loaded.model)
    assert has_neurons(loaded.model) and not has_neurons(rest)
    before = operators(loaded.model)
    assert operators(rest) == before - Counter({"LIF": before["LIF"]})
    states = {s.input for s in loaded.artifact.states if s.role == "spike"}
    assert states and {value.name for value in rest.graph.input} == {"events"} | states
    assert [value.name for value in rest.graph.output] == ["flow"]


def test_a_step_computes_them(make_file: Any) -> None:
    """No state: the previous spikes are always zeros."""
    loaded = load_model(make_file("net.float.onnx", kind="float"))
    stream = FloatConvolutions(loaded, SIZE, threads=2)
    rng = np.random.default_rng(0)
    for _ in range(3):
        shape = (1, loaded.artifact.num_bins, *SIZE)
        feed = {"events": rng.integers(0, 3, shape).astype(np.float32)}
        for state in loaded.artifact.states:
            if state.role == "spike":
                feed[state.input] = np.zeros(state.resolved_shape(1, *SIZE), np.float32)
        (expected,) = ReferenceEvaluator(without_neurons(loaded.model)).run(None, feed)
        assert np.ptp(expected) > 0
        np.testing.assert_allclose(stream.step(feed["events"]), expected, rtol=1e-4, atol=1e-5)
