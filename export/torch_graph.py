"""Any Brevitas module to a raw QDQ graph, by either of torch's two exporters.

Both routes go through Brevitas' QCDQ managers. The TorchScript route is the primary one: it gives
integer weights and biases as they are. The dynamo route cannot look integer tensors up, so weights
arrive as float initializers with their quantizer, and biases as floats that lie on the integer
grid; the passes ``fold_weights`` and ``integer_bias`` restore both exactly.
"""

from __future__ import annotations

import copy
import inspect
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.jit._trace import TracerWarning

import lif_op.spec
from export.errors import ExportError
from export.torch_lif import torchscript_symbolics, translation_table

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="fast_hadamard_transform package not found")
    from brevitas.export.manager import _set_recurrent_layer_export_mode
    from brevitas.export.onnx.standard.qcdq.manager import (
        StdQCDQONNXDynamoManager,
        StdQCDQONNXManager,
    )
    from brevitas.graph.calibrate import QuantizationStatusManager
    from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer
    from brevitas.proxy import ActQuantProxyFromInjector, BiasQuantProxyFromInjector
    from brevitas.proxy.quant_proxy import QuantProxyProtocol
    from brevitas.quant_tensor import QuantTensor

Route = Literal["torchscript", "dynamo"]
ROUTES: tuple[Route, ...] = ("torchscript", "dynamo")
DynamicAxes = dict[str, dict[int, str]]

_KNOWN_WARNINGS = (
    "You are using the legacy TorchScript-based ONNX export",
    "The feature will be removed. Please remove usage of this function",
    # It writes the opset it is asked for; what it emits reads the same in 20 and 21.
    "Exporting to ONNX opset version 21 is not supported",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Brevitas, of an accumulator's zero point that nobody here asks for.
    "Computing zero point of output accumulator not supported",
    "Positional args are being deprecated, use kwargs instead",
)
_LIBRARIES = ("brevitas", "torch", "onnxscript")
_ADVICE = {
    "Binary quant not supported": "use at least 2 bits, or 8 bits with a constant scale of 1 for "
    "values that are 0 or 1",
    "Input scale required": "its layer is never called, or its input has no quantizer: give the "
    "layer an input_quant, or a bias without a quantizer",
    "Per Group": "use one scale per tensor or per output channel",
    "Bit width": "use 2 to 8 bits",
    "data-dependent": "the module branches on the values of a tensor; use torch.where or move the "
    "branch out of forward",
    "Cannot access data pointer": "the layer compares tensors by address, which only the "
    "TorchScript route can follow; an attention layer also exports with packed_in_proj=False",
}


def export_qdq(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    route: Route = "torchscript",
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: DynamicAxes | None = None,
) -> onnx.ModelProto:
    """Export a module to ONNX with QuantizeLinear and DequantizeLinear, as the exporter spells it.

    Args:
        module: stays as it is; exported in eval mode.
        inputs: examples; their shapes become the graph's, but for ``dynamic_axes``.
        route: "torchscript" or "dynamo".
        input_names: of the graph, one per input.
        output_names: of the graph, one per output.
        dynamic_axes: by input name, the axes that stay free and their names.

    Returns:
        a model of opset 21 and IR version 10 that holds every tensor itself.

    Raises:
        ExportError: the module cannot be exported; the message names the part where it is known.
    """
    if route not in ROUTES:
        raise ExportError(f"no export route {route!r}; one of {', '.join(ROUTES)}")
    _check_inputs(inputs, input_names)
    copied = copy.deepcopy(module).eval()
    _check_outputs(copied, inputs, output_names)
    manager: type[StdQCDQONNXManager] = _TorchScript
    options: dict[str, Any] = {"dynamo": False, "dynamic_axes": dynamic_axes}
    if route == "dynamo":
        _round_biases(copied, inputs)
        manager, options = _Dynamo, _dynamo_options(copied, input_names, dynamic_axes)
    with tempfile.TemporaryDirectory() as folder, torchscript_symbolics(), _failures_named(module):
        path = Path(folder) / "raw.onnx"
        with _quiet() as caught:
            manager.export(
                copied,
                args=inputs,
                export_path=str(path),
                disable_warnings=False,
                opset_version=lif_op.spec.OPSET,
                keep_initializers_as_inputs=False,
                input_names=list(input_names),
                output_names=list(output_names),
                verbose=False,
                **options,
            )
        model = onnx.load(path)
    if caught and route == "torchscript":
        _refuse_control_flow(module, inputs, caught)
    return _pinned(model, input_names)


def export_float(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> onnx.ModelProto:
    """Export the float network under a Brevitas module: every quantizer switched off.

    Arguments, result and errors as :func:`export_qdq`.
    """
    _check_inputs(inputs, input_names)
    copied = without_quantizers(module)
    _check_outputs(copied, inputs, output_names)
    with tempfile.TemporaryDirectory() as folder, torchscript_symbolics(), _failures_named(module):
        path = Path(folder) / "float.onnx"
        with _quiet():
            torch.onnx.export(
                copied,
                inputs,
                str(path),
                dynamo=False,
                opset_version=lif_op.spec.OPSET,
                input_names=list(input_names),
                output_names=list(output_names),
            )
        model = onnx.load(path)
    return _pinned(model, input_names)


def without_quantizers(module: nn.Module) -> nn.Module:
    """A copy in eval mode that computes in float: no quantizer acts, plain tensors come out."""
    copied = copy.deepcopy(module).eval()
    QuantizationStatusManager.disable_return_quant_tensor(copied)
    QuantizationStatusManager.disable_act_quantization(copied, is_training=False)
    QuantizationStatusManager.disable_param_quantization(copied, is_training=False)
    return copied


def plain(value: Any) -> Tensor:
    """The tensor of what a Brevitas module returns."""
    return value.value if isinstance(value, QuantTensor) else value


@torch.no_grad()
def run_module(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Outputs of a module in the mode it is in, flattened to a list of tensors.

    Raises:
        ExportError: it fails on these inputs, or returns something else than tensors.
    """
    try:
        with quiet_brevitas():
            result = module(*inputs)
    except Exception as error:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in inputs)
        raise ExportError(
            f"{type(module).__name__} does not run on inputs of shape {shapes}: {_reason(error)}"
        ) from error
    single = isinstance(result, (Tensor, QuantTensor)) or not isinstance(result, (tuple, list))
    outputs = [plain(item) for item in ((result,) if single else result)]
    for item in outputs:
        if not isinstance(item, Tensor):
            raise ExportError(
                f"{type(module).__name__} returns a {type(item).__name__}; return a tensor or a "
                "tuple of tensors"
            )
    return outputs


@contextmanager
def quiet_brevitas() -> Iterator[None]:
    """Silence what torch and Brevitas always say about things that are settled here."""
    with warnings.catch_warnings():
        for message in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


class _NamesQuantizers(StdQCDQONNXManager):  # type: ignore[misc]
    """Brevitas' manager; the quantizer it cannot express is named in the error."""

    run_onnx_passes = False

    @classmethod
    def set_export_mode(cls, model: nn.Module, enabled: bool) -> None:
        """Collect each quantizer's constants, or leave the mode again."""
        for name, part in model.named_modules():
            if not (isinstance(part, QuantProxyProtocol) and hasattr(part, "export_mode")):
                continue
            if enabled and part.requires_export_handler and part.export_handler is None:
                raise ExportError(
                    f"quantizer {name!r} ({type(part).__name__}) has no QDQ form; use an integer "
                    "quantizer of at most 8 bits"
                )
            rounding = str(part.rounding_mode).upper()
            acts = isinstance(part, ActQuantProxyFromInjector) and part.is_quant_enabled
            if enabled and acts and rounding != "ROUND":
                raise ExportError(
                    f"quantizer {name!r} rounds by {rounding}, QuantizeLinear to the nearest; use "
                    "float_to_int_impl_type ROUND"
                )
            try:
                part.export_mode = enabled
            except (AssertionError, RuntimeError, NotImplementedError) as error:
                raise ExportError(
                    f"quantizer {name!r} has no QDQ form: {_reason(error)}"
                ) from error
        _set_recurrent_layer_export_mode(model, enabled)


class _TorchScript(_NamesQuantizers):
    pass


class _Dynamo(StdQCDQONNXDynamoManager, _NamesQuantizers):  # type: ignore[misc]
    pass


def _reason(error: BaseException) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    advice = next((text for known, text in _ADVICE.items() if known in first), None)
    return first if advice is None else f"{first}; {advice}"


def _check_inputs(inputs: tuple[Tensor, ...], names: Sequence[str]) -> None:
    if not inputs or len(inputs) != len(names):
        raise ExportError(f"{len(names)} input names for {len(inputs)} inputs; give one for each")


def _check_outputs(module: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str]) -> None:
    count = len(run_module(module, inputs))
    if count != len(names):
        raise ExportError(f"the module has {count} outputs, {len(names)} names given")


def _round_biases(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Put each quantized bias on its integer grid and switch its quantizer off."""
    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, QuantWeightBiasInputOutputLayer)
        and layer.bias is not None
        and layer.bias_quant.is_quant_enabled
    ]
    for layer in layers:
        layer.bias_quant.cache_inference_quant_bias = True
    run_module(module, inputs)
    with torch.no_grad():
        for layer in layers:
            rounded = layer.quant_bias()
            if rounded is not None:
                layer.bias.copy_(plain(rounded))
    for part in module.modules():
        if isinstance(part, BiasQuantProxyFromInjector):
            part.disable_quant = True


def _dynamo_options(
    module: nn.Module, names: Sequence[str], dynamic_axes: DynamicAxes | None
) -> dict[str, Any]:
    return {
        "dynamo": True,
        "optimize": True,
        "external_data": False,
        "dynamic_shapes": _dynamic_shapes(module, names, dynamic_axes),
        "custom_translation_table": translation_table(),
    }


def _dynamic_shapes(
    module: nn.Module, names: Sequence[str], dynamic_axes: DynamicAxes | None
) -> tuple[Any, ...] | None:
    """Free axes in the structure of forward's arguments: ``*args`` are one nested tuple."""
    if dynamic_axes is None:
        return None
    free = [{axis: torch.export.Dim.AUTO for axis in dynamic_axes.get(name, {})} for name in names]
    kinds = [entry.kind for entry in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(free)
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*free[:named], tuple(free[named:]))


@contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Silence what the exporters always say; collects branches on tensors in the user's code.

    Warnings of any other kind are passed on when the block ends.
    """
    branches: list[warnings.WarningMessage] = []
    logger = logging.getLogger("torch")
    level = logger.level
    # A failed export is raised; torch would log and print the graph it was in as well.
    logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("always")
            for message in _KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield branches
    finally:
        logger.setLevel(level)
    for warning in caught:
        tracer = issubclass(warning.category, TracerWarning)
        if tracer and "Converting a tensor to a Python" in str(warning.message):
            if not _of_library(warning.filename):
                branches.append(warning)
        elif not (tracer and _of_library(warning.filename)):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _of_library(filename: str) -> bool:
    folders = (Path(str(sys.modules[name].__file__)).parent for name in _LIBRARIES)
    return any(Path(filename).is_relative_to(folder) for folder in folders)


@contextmanager
def _failures_named(module: nn.Module) -> Iterator[None]:
    """Whatever torch or Brevitas raise becomes one ExportError."""
    try:
        yield
    except (ExportError, OSError):
        raise
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} cannot be exported: {_reason(_root(error))}"
        ) from error


def _root(error: BaseException) -> BaseException:
    """The innermost cause, which is where exporters say what went wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _refuse_control_flow(
    module: nn.Module, inputs: tuple[Tensor, ...], branches: list[warnings.WarningMessage]
) -> None:
    """A branch on values would be frozen as traced; one on shapes is a constant anyway.

    Tensors without data tell the two apart.
    """
    copied = without_quantizers(module)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            copied(*(mode.from_tensor(tensor) for tensor in inputs))
    except DataDependentOutputException as error:
        where = branches[0]
        raise ExportError(
            f"{type(module).__name__} branches on the values of a tensor "
            f"({where.filename}:{where.lineno}), which a graph cannot follow; use torch.where or "
            "move the branch out of forward"
        ) from error


def _pinned(model: onnx.ModelProto, input_names: Sequence[str]) -> onnx.ModelProto:
    """Check what the rest of the house relies on; a torch that does otherwise is refused here."""
    opset = {entry.domain: entry.version for entry in model.opset_import}.get("")
    if opset != lif_op.spec.OPSET:
        raise ExportError(
            f"torch {torch.__version__} wrote opset {opset} instead of {lif_op.spec.OPSET}; "
            "use the version that the [export] extra pins"
        )
    given = [value.name for value in model.graph.input]
    if given != list(input_names):
        missing = [name for name in input_names if name not in given]
        raise ExportError(f"the graph has no input {', '.join(missing)}: the module ignores it")
    model.ir_version = lif_op.spec.IR_VERSION
    return model
