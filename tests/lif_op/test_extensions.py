"""The neurons as Python ops of onnxruntime-extensions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import op_models
import pytest

import lif_op
from lif_op import extensions, spec


@pytest.fixture
def installed() -> None:
    pytest.importorskip("onnxruntime_extensions")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("reset", spec.RESETS)
def test_lif(reset: str) -> None:
    inputs = op_models.lif_inputs(1, (2, 3, 4, 5))
    outputs = {"spike": np.float32, "mem_out": np.float32}
    model = op_models.single_node("LIF", inputs, outputs, reset=reset)
    got = op_models.session(model, extensions.register).run(None, inputs)
    op_models.assert_same(got, spec.lif(**inputs, reset=reset))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("mem_dtype", [np.int16, np.int8])
def test_qlif(mem_dtype: Any) -> None:
    inputs = op_models.qlif_inputs(2, (2, 3, 4, 5), mem_dtype)
    outputs = {"spike": np.uint8, "mem_out": mem_dtype}
    model = op_models.single_node("QLIF", inputs, outputs, frac_bits=-2, reset="subtract")
    got = op_models.session(model, extensions.register).run(None, inputs)
    op_models.assert_same(got, spec.qlif(**inputs, frac_bits=-2, reset="subtract"))


@pytest.mark.usefixtures("installed")
def test_the_reference_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    reference = spec.qlif

    def spy(acc: Any, *rest: Any) -> Any:
        seen.append(acc.shape)
        return reference(acc, *rest)

    monkeypatch.setattr(spec, "qlif", spy)
    inputs = op_models.qlif_inputs(3, (1, 3, 4, 5))
    outputs = {"spike": np.uint8, "mem_out": np.int16}
    model = op_models.single_node("QLIF", inputs, outputs, frac_bits=0, reset="zero")
    op_models.session(model, extensions.register).run(None, inputs)
    assert seen == [(1, 3, 4, 5)]


@pytest.fixture
def forgotten() -> Iterator[None]:
    extensions._library_with_neurons.cache_clear()
    yield
    extensions._library_with_neurons.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_without_the_package_it_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    with pytest.raises(lif_op.LibraryError, match="pip install spikedeploy") as caught:
        extensions.register(onnxruntime.SessionOptions())
    assert "\n" not in str(caught.value)
