"""The Python face: finding the library, registering it, choosing a kernel target."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnxruntime
import op_models
import pytest

import lif_op


def test_the_library_lies_next_to_the_compiled_module() -> None:
    path = lif_op.library_path()
    assert path.is_file()
    assert path.suffix == ".so"
    assert list(path.parent.glob("_core.*.so"))


def test_the_library_shows_its_entry_point_and_nothing_else() -> None:
    command = ["nm", "--dynamic", "--defined-only", str(lif_op.library_path())]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in listed.splitlines()] == ["RegisterCustomOps"]


def test_the_library_links_no_runtime() -> None:
    command = ["readelf", "--dynamic", str(lif_op.library_path())]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = [line for line in listed.splitlines() if "(NEEDED)" in line]
    assert needed
    assert not [line for line in needed if "onnxruntime" in line]


def test_targets() -> None:
    targets = lif_op.targets()
    assert targets[0] == "scalar"
    assert set(targets) <= {"scalar", "avx2", "avx512vnni", "avx512vbmi", "amx", "neon", "neondot"}


def test_the_fastest_target_is_active_unless_one_is_forced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LIF_OP_TARGET", raising=False)
    assert lif_op.active_target() == lif_op.targets()[-1]
    for target in lif_op.targets():
        monkeypatch.setenv("LIF_OP_TARGET", target)
        assert lif_op.active_target() == target


def test_a_wrong_target_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIF_OP_TARGET", "mmx")
    expected = r"LIF_OP_TARGET: there is no kernel target 'mmx'; this machine can run: scalar"
    with pytest.raises(lif_op.LibraryError, match=expected) as active:
        lif_op.active_target()
    with pytest.raises(lif_op.LibraryError, match=expected) as register:
        lif_op.register(onnxruntime.SessionOptions())
    for caught in (active, register):
        assert "\n" not in str(caught.value)
        assert caught.value.user_error


def test_a_target_forced_after_registration_is_checked_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = op_models.lif_inputs(1, (1, 2, 3, 3))
    model = op_models.single_node("LIF", inputs, {"spike": "f4", "mem_out": "f4"}, reset="zero")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    lif_op.register(options)
    monkeypatch.setenv("LIF_OP_TARGET", "mmx")
    with pytest.raises(Exception, match="snn::LIF: environment variable LIF_OP_TARGET"):
        onnxruntime.InferenceSession(model.SerializeToString(), options)


def test_a_missing_compiled_module_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lif_op._core", None)
    calls = (
        lif_op.library_path,
        lif_op.targets,
        lif_op.active_target,
        lambda: lif_op.register(onnxruntime.SessionOptions()),
    )
    for call in calls:
        with pytest.raises(lif_op.LibraryError, match="the op library of spikedeploy is not") as e:
            call()
        assert "\n" not in str(e.value)
    assert lif_op.functions()  # the function bodies need no compiled code


def test_a_missing_library_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lif_op, "_LIBRARY_NAME", "libgone.so")
    with pytest.raises(lif_op.LibraryError, match=r"there is no .*libgone\.so"):
        lif_op.library_path()
    monkeypatch.setattr(lif_op, "library_path", lambda: tmp_path / "libgone.so")
    with pytest.raises(lif_op.LibraryError, match="cannot register the op library"):
        lif_op.register(onnxruntime.SessionOptions())
