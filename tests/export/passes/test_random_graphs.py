"""Random quantized graphs through the integer passes.

With scales that are powers of two, float32 computes a QDQ graph exactly, ties included: the passes
must not change one bit of it, whatever they do. With arbitrary scales a QDQ graph rounds where the
integer graph does not, one flipped tie flips others downstream, and the two may be compared for
one requantization at a time only; what must stay equal there, bit for bit, are the integer graph's
implementations.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdq_graphs import Graph, apply, assert_equal, assert_runtimes_agree, integer, ops, run_ort
from random_graphs import Network, networks

from export.oracle import run_integer
from export.passes.fuse_qlinear import FuseQLinear
from export.passes.sink_dequantize import SinkDequantize
from export.passes.tabulate import Tabulate

PIPELINE = (SinkDequantize, FuseQLinear, Tabulate)
QUICK = settings(
    max_examples=120,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=list(HealthCheck),
)
THOROUGH = settings(QUICK, max_examples=1500)


def _pipeline(network: Network):
    return apply(network.model, *(entry() for entry in PIPELINE))


def _keeps_the_exact_function(network: Network) -> None:
    want = run_ort(network.model, network.feeds)
    sunk = apply(network.model, SinkDequantize())
    assert_equal(run_ort(sunk, network.feeds), want, "sunk")
    lowered = _pipeline(network)
    assert_equal(run_integer(lowered, network.feeds), want, "lowered")
    assert_equal(run_ort(lowered, network.feeds), want, "lowered")


def _runtimes_agree(network: Network) -> None:
    lowered = _pipeline(network)
    assert_runtimes_agree(lowered, network.feeds)
    again = apply(lowered, *(entry() for entry in PIPELINE))
    assert ops(again) == ops(lowered)


@QUICK
@given(networks(exact=True))
def test_scales_of_two_are_exact(network: Network) -> None:
    _keeps_the_exact_function(network)


@QUICK
@given(networks(exact=False))
def test_runtimes_agree(network: Network) -> None:
    _runtimes_agree(network)


@pytest.mark.long
@THOROUGH
@given(networks(exact=True))
def test_many_with_scales_of_two_are_exact(network: Network) -> None:
    _keeps_the_exact_function(network)


@pytest.mark.long
@THOROUGH
@given(networks(exact=False))
def test_runtimes_agree_on_many(network: Network) -> None:
    _runtimes_agree(network)


@QUICK
@given(
    seed=st.integers(0, 2**16),
    s_y=st.floats(0.25, 4.0, width=32),
    zero=st.integers(0, 255),
    kind=st.sampled_from(["Conv", "Gemm", "Add", "Mul"]),
)
def test_one_requantization_differs_by_one_step_at_ties(seed, s_y, zero, kind) -> None:
    """Both sides round the same real value to a step, each with the error of a few float32
    roundings: further from a tie than that they cannot differ, and at a tie by one step only."""
    rng = np.random.default_rng(seed)
    s_x, s_w = np.float32(rng.uniform(0.01, 0.1)), rng.uniform(0.01, 0.1, 4).astype(np.float32)
    graph = Graph()
    shape = (1, 3, 6, 6) if kind != "Gemm" else (4, 20)
    x = graph.qdq(graph.input("x", np.float32, shape), s_x, 100)
    if kind == "Conv":
        weight = graph.weight(rng.integers(-63, 64, (4, 3, 3, 3)).astype(np.int8), s_w)
        y = graph.op("Conv", x, weight, graph.bias(rng.integers(-99, 99, 4), s_x * s_w))
    elif kind == "Gemm":
        weight = graph.weight(rng.integers(-63, 64, (4, 20)).astype(np.int8), s_w)
        bias = graph.bias(rng.integers(-99, 99, 4), s_x * s_w)
        y = graph.op("Gemm", x, weight, bias, transB=1)
    else:
        other = graph.qdq(graph.input("z", np.float32, shape), s_w[0], 3)
        y = graph.op(kind, x, other)
    q = graph.q(y, s_y, zero)
    model = graph.model({q: np.uint8, y: np.float32})
    feeds = {entry.name: rng.normal(0, 4, shape).astype(np.float32) for entry in model.graph.input}
    want = run_ort(model, feeds)
    only_quantized = graph.model({q: np.uint8})
    got = run_integer(integer(only_quantized), feeds)[q]
    steps = want[y].astype(np.float64) / np.float64(np.float32(s_y))
    from_tie = np.abs(np.abs(steps - np.rint(steps)) - 0.5)
    difference = np.abs(got.astype(int) - want[q].astype(int))
    terms = {"Conv": 27, "Gemm": 20, "Add": 2, "Mul": 1}[kind]
    # K terms of at most 155 s_x * 252 s_w, summed with K roundings and scaled with four more.
    magnitude = terms * 155 * s_x * max(252 * s_w.max(), 1) + 99 * s_x * s_w.max()
    error = (terms + 4) * 2.0**-24 * magnitude / s_y
    assert error < 2.0**-3
    assert ((difference == 0) | ((difference == 1) & (from_tie <= error))).all()


@pytest.mark.parametrize("kind", ["Conv", "MatMul", "Mul", "GlobalAveragePool"])
def test_sinking_moves_real_values_by_roundings_only(kind: str) -> None:
    """K terms summed in float32 err by at most K roundings of the sum of magnitudes; the sunk
    form rounds three times."""
    rng = np.random.default_rng(3)
    s_x, s_w = np.float32(0.0371), rng.uniform(0.01, 0.1, 4).astype(np.float32)
    graph, feeds = Graph(), {}
    x = graph.qdq(graph.input("x", np.float32, (1, 3, 6, 6)), s_x, 100)
    if kind == "Conv":
        w = rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
        y, terms, largest = graph.op("Conv", x, graph.weight(w, s_w)), 27, s_w.max() * 127
    elif kind == "MatMul":
        w = rng.integers(-127, 128, (6, 4)).astype(np.int8)
        y, terms, largest = graph.op("MatMul", x, graph.weight(w, s_w, 1)), 6, s_w.max() * 127
    elif kind == "Mul":
        y, terms, largest = graph.op("Mul", x, x), 1, s_x * 155
    else:
        y, terms, largest = graph.op(kind, x), 36, 1 / 36
    model = graph.model({y: np.float32})
    feeds["x"] = rng.normal(0, 4, (1, 3, 6, 6)).astype(np.float32)
    sunk = apply(model, SinkDequantize())
    assert ops(sunk)[-1] == "DequantizeLinear"
    difference = np.abs(run_ort(sunk, feeds)[y].astype(np.float64) - run_ort(model, feeds)[y])
    assert difference.max() <= (terms + 3) * 2.0**-24 * terms * 155 * s_x * largest
