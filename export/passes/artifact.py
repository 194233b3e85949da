"""The artifact metadata that a graph carries through the passes.

A pass that changes the type of a state, of the events or of an output calls ``follow_graph``
afterwards, so that a file can be loaded after any pass and not only after the last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import onnx_ir as ir

from runtime.graph_checks import EVENTS, FLOW_ACC
from runtime.metadata import METADATA_KEY, Artifact, Layer, State

_DTYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.UINT8: "uint8",
    ir.DataType.INT8: "int8",
    ir.DataType.INT16: "int16",
    ir.DataType.UINT32: "uint32",
}


def read_artifact(model: ir.Model) -> Artifact | None:
    """The metadata of a graph; None where it carries none."""
    text = model.metadata_props.get(METADATA_KEY)
    return None if text is None else Artifact.from_json(text)


def write_artifact(model: ir.Model, artifact: Artifact) -> None:
    """Put metadata into a graph."""
    model.metadata_props[METADATA_KEY] = artifact.to_json()


def follow_graph(model: ir.Model, layers: Iterable[Layer] = ()) -> None:
    """Make the metadata say the types that the graph has.

    States and events take the element types of their graph inputs. The kind becomes ``int8`` once
    everything from the events to ``flow_acc`` is an integer, and is ``qdq`` in between.

    Args:
        model: carries metadata, or stays as it is.
        layers: take the place of the metadata's layers of the same names.
    """
    artifact = read_artifact(model)
    if artifact is None:
        return
    inputs = {value.name: value for value in model.graph.inputs}
    states = tuple(_typed(state, inputs.get(state.input)) for state in artifact.states)
    events = inputs.get(EVENTS)
    event_dtype = "float32" if events is None else _dtype(events, "float32")
    new = {layer.name: layer for layer in layers}
    merged = tuple(new.get(layer.name, layer) for layer in artifact.layers)
    outputs = {value.name for value in model.graph.outputs}
    integer = (
        event_dtype == "uint8"
        and FLOW_ACC in outputs
        and all(state.dtype != "float32" for state in states)
        and all(layer.mem_bits is not None for layer in merged)
    )
    real = event_dtype == "float32" and all(state.dtype == "float32" for state in states)
    kind = "int8" if integer else "float" if real and artifact.kind == "float" else "qdq"
    write_artifact(
        model,
        replace(
            artifact,
            kind=kind,
            states=states,
            layers=merged,
            events="uint8" if kind == "qdq" and event_dtype == "uint8" else None,
        ),
    )


def _dtype(value: ir.Value, default: str) -> str:
    return default if value.dtype is None else _DTYPES.get(value.dtype, default)


def _typed(state: State, value: ir.Value | None) -> State:
    return state if value is None else replace(state, dtype=_dtype(value, state.dtype))
