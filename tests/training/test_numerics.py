"""Devices and precisions: what is refused, what autocast reaches, what is put back."""

from __future__ import annotations

import pytest
import torch

from training.config import ConfigError
from training.numerics import forward_numerics, pick_device, reproducible

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("auto", "float32") == pick_device("cpu", "bfloat16") == CPU
    with pytest.raises(ConfigError, match="finds no GPU"):
        pick_device("cuda", "float32")
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        pick_device("auto", "float16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto", "float16").type == pick_device("cuda", "float32").type == "cuda"
    assert pick_device("cpu", "float32") == CPU


def product(a: torch.Tensor) -> torch.dtype:
    return torch.nn.functional.conv2d(a, a).dtype


def test_autocast_reaches_what_need_not_be_exact() -> None:
    a = torch.ones(1, 1, 3, 3)
    with forward_numerics(CPU, "float32", exact=False):
        assert product(a) == torch.float32
    with forward_numerics(CPU, "bfloat16", exact=False):
        assert product(a) == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16), forward_numerics(CPU, "bfloat16", exact=True):
        assert product(a) == torch.float32
    assert product(a) == torch.float32


def test_settings_are_put_back() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with reproducible(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.are_deterministic_algorithms_enabled() == before
    with reproducible(False):
        assert torch.are_deterministic_algorithms_enabled() == before
