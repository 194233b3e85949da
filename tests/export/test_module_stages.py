"""Stages of networks without neurons: equal, or ties of a known grid; a wrong pass is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from brevitas.nn import QuantConv2d, QuantIdentity
from onnx import numpy_helper
from torch import nn

from calib_data import console
from export import module_profiles, qdq
from export.difference import Arrays
from export.errors import ExportError
from export.gap import Computed, gap
from export.grids import grid
from export.module_export import Graphs, Options, build_graphs
from export.module_inputs import Samples, load_module, read_samples
from export.module_stages import ModuleStages
from export.passes import find_pass
from export.stage import StageError
from export.together import together

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def built(module: nn.Module, size: int = 16, **options: Any) -> tuple[Graphs, Arrays]:
    x = torch.randn((1, 3, size, size), generator=torch.Generator().manual_seed(3))
    samples = Samples(("x",), (), ((x,),))
    graphs = build_graphs(module, samples, ["output"], Options(quiet=True, **options))
    return graphs, samples.feeds[0]


@pytest.fixture(scope="module")
def network() -> tuple[Graphs, Arrays]:
    sys.path.insert(0, str(ROOT))
    module = load_module("examples.networks.resnet:resnet18_narrow")
    return built(module, 32, profiles=(module_profiles.MODULE_PROFILES["portable-int"],))


def test_every_pass_is_a_stage_within_its_bound(network: tuple[Graphs, Arrays]) -> None:
    stages = network[0].stages
    assert [stage.name for stage in stages["qdq"]][:2] == ["torchscript", "clean"]
    assert [stage.name for stage in stages["int8"]] == ["sink_dequantize", "fuse_qlinear"]
    for stage in (entry for several in stages.values() for entry in several):
        assert stage.largest <= stage.bound and stage.tie <= stage.tie_bound
        assert stage.real <= stage.real_bound and stage.tensors > 20
    integer = {stage.name: stage for stage in stages["portable-int"]}
    for name in ("spell_requantize", "attach_functions", "inline_functions"):
        assert integer[name].relation == "equal" and integer[name].differing == 0


def test_biases_may_move_by_half_a_unit() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        QuantIdentity(return_quant_tensor=True), QuantConv2d(3, 4, 3, bias=True), QuantIdentity()
    ).eval()
    stage = next(s for s in built(module)[0].stages["qdq"] if s.name == "integer_bias")
    assert 1e-7 < stage.real <= stage.real_bound and stage.real_bound > 1e-5


def off_by_one(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which the first bias is one unit of the accumulator larger."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.data_type == 6 and t.dims)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    return copy


def other_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which the first weight is another."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.data_type == 3 and len(t.dims) == 4)
    array = np.roll(numpy_helper.to_array(tensor), 1)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return copy


def test_a_wrong_stage_names_pass_tensor_and_size(network: tuple[Graphs, Arrays]) -> None:
    graphs, feed = network
    stages = ModuleStages(feed)
    stages.add("qdq", graphs.models["qdq"])
    with pytest.raises(StageError, match=r"stage fuse: tensor '.*' differs in \d+ values.*steps"):
        stages.branch().add("fuse", other_weights(graphs.models["int8"]))
    stages.add("portable-int", graphs.models["portable-int"])
    with pytest.raises(StageError, match=r"stage bias: .* differs in \d+ values.* equal"):
        stages.add("bias", off_by_one(graphs.models["portable-int"]))


def test_one_step_is_a_tie_only_near_the_middle() -> None:
    unit = grid(0.5)
    for real, tie in ((1.25, True), (1.1, False)):
        before = Computed(
            {"x": np.array([real, 9], np.float32), "q": np.array([2, 18], np.int8)},
            {"q": unit},
            {"q": ("x", unit)},
        )
        after = Computed({"q": np.array([3, 18], np.int8)}, {"q": unit})
        found = gap(("q", "q"), before, after)
        assert found is not None and found.count == 1 and found.is_tie is tie


def test_a_stage_outside_its_bound_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = find_pass("fuse_qlinear")
    original = wrong.rewrite  # type: ignore[union-attr]

    def rewrite(self: Any, model: Any) -> int:
        count = original(self, model)
        weight = next(n for n in model.graph if n.op_type == "QLinearConv").inputs[3]
        weight.const_value = ir.tensor(np.roll(weight.const_value.numpy(), 1), name=weight.name)
        return count

    monkeypatch.setattr(wrong, "rewrite", rewrite)
    out = tmp_path / "out"
    given = ["--module", "examples.networks.layers:conv", "--input-shape", "1,3,8,8"]
    assert console.run(qdq.main, [*given, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "stage fuse_qlinear: tensor" in line and "steps of" in line
    assert not out.exists()


# --- files that belong together -----------------------------------------------------------------


def test_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), together(tmp_path) as folder:
        (folder / "a").write_text("new")
        raise KeyboardInterrupt
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]
    with pytest.raises(OSError, match="remove it"), together(tmp_path) as folder:
        (tmp_path / "b").mkdir()
        for name in "ab":
            (folder / name).write_text("new")
    assert (tmp_path / "a").read_text() == "old"


def test_two_exports_at_once_leave_one_set(tmp_path: Path) -> None:
    ready = threading.Barrier(2)

    def write(text: str) -> None:
        for _ in range(20):
            with together(tmp_path) as folder:
                for number in range(8):
                    (folder / str(number)).write_text(text)
                ready.wait(10)

    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(p.name for p in tmp_path.iterdir()) == list("01234567")
    assert len({p.read_text() for p in tmp_path.iterdir()}) == 1


def test_an_interrupted_export_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, signal\nfrom examples.networks.layers import conv as made\n"
        "def conv():\n    os.kill(os.getpid(), signal.SIGINT)\n    return made()\n"
    )
    given = ["--module", "slow:conv", "--input-shape", "1,3,8,8", "--out", str(tmp_path / "out")]
    found = subprocess.run(
        [sys.executable, "-m", "export.qdq", *given],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert found.returncode == 130
    assert found.stderr.splitlines()[-1] == "interrupted" and "Traceback" not in found.stderr
    assert not (tmp_path / "out").exists()


def test_values_beyond_float32_are_one_error(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    np.savez(tmp_path / "data.npz", x=np.full((4, 3), 1e300))
    with pytest.raises(ExportError, match="beyond the range of float32"):
        read_samples(tmp_path / "data.npz", ["x"], [(1, 3)])
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_a_name_is_suggested_only_if_it_is_close() -> None:
    with pytest.raises(ExportError, match="nearest is 'portable'"):
        module_profiles.find_module_profile("portabel")
    with pytest.raises(ExportError, match="choose of portable, portable-int"):
        module_profiles.find_module_profile("zzz")


def test_stages_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--module", "examples.networks.layers:conv", "--input-shape", "1,3,8,8"]
    assert qdq.main([*given, "--out", str(tmp_path)]) == 0
    assert "stage by stage" in capsys.readouterr().out
    artifacts = json.loads((tmp_path / "stages.json").read_text())["artifacts"]
    assert [(a["profile"], a["after"]) for a in artifacts] == [("qdq", None), ("int8", "qdq")]
    last = artifacts[1]["stages"][-1]
    assert last["name"] == "fuse_qlinear" and last["differing"] == 0 and last["first"] is None
