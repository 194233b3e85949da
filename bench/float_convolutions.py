"""ONNX Runtime's own float convolutions on the layers of a float artifact, as a yardstick.

The graph is the artifact's with every neuron taken out: the current of a layer is the input of the
next, and what a recurrent layer adds of its previous spikes is computed from zeros. Its time, which
does not depend on the values, is what is left where the neurons of a float network cost nothing at
all. Its numbers mean nothing as flow.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from runtime.artifact import LoadedModel
from runtime.graph_checks import EVENTS, FLOW
from runtime.runner import Array

_NEURON = "LIF"
_ERRORS_ONLY = 3


def has_neurons(model: onnx.ModelProto) -> bool:
    """Whether a float artifact spikes."""
    return any(node.op_type == _NEURON for node in model.graph.node)


def without_neurons(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float artifact's graph whose neurons pass their currents on, with ``flow`` as output."""
    graph = model.graph
    currents = {node.output[0]: node.input[0] for node in graph.node if node.op_type == _NEURON}
    nodes = []
    for node in graph.node:
        if node.op_type != _NEURON:
            kept = onnx.NodeProto()
            kept.CopyFrom(node)
            kept.input[:] = [currents.get(name, name) for name in node.input]
            nodes.append(kept)
    read = {name for node in nodes for name in node.input}
    rest = onnx.helper.make_graph(
        nodes,
        "convolutions",
        [value for value in graph.input if value.name in read],
        [value for value in graph.output if value.name == FLOW],
        [constant for constant in graph.initializer if constant.name in read],
    )
    return onnx.helper.make_model(
        rest, opset_imports=model.opset_import, ir_version=model.ir_version
    )


class FloatConvolutions:
    """Steps the convolutions of a float artifact; see the module's text."""

    def __init__(self, loaded: LoadedModel, resolution: tuple[int, int], threads: int = 1) -> None:
        """resolution: (H, W). threads: of ONNX Runtime's pool."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(
            without_neurons(loaded.model).SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        artifact = loaded.artifact
        shapes = {s.input: s.resolved_shape(1, *resolution) for s in artifact.states}
        shapes[EVENTS] = (1, artifact.num_bins, *resolution)
        self._binding = self._session.io_binding()
        self._arrays = {}
        for value in self._session.get_inputs():
            zeros = np.zeros(shapes[value.name], np.float32)
            self._arrays[value.name] = ort.OrtValue.ortvalue_from_numpy(zeros)
            self._binding.bind_ortvalue_input(value.name, self._arrays[value.name])
        flow = np.zeros((1, 2, *resolution), np.float32)
        self._result = ort.OrtValue.ortvalue_from_numpy(flow)
        self._binding.bind_ortvalue_output(FLOW, self._result)

    def step(self, events: Array, *, copy: bool = True) -> Array:
        """One step on events float32 [1, bins, H, W]; returns what came out, [1, 2, H, W]."""
        self._arrays[EVENTS].update_inplace(np.ascontiguousarray(events))
        self._session.run_with_iobinding(self._binding)
        result: Array = self._result.numpy()
        return result.copy() if copy else result
