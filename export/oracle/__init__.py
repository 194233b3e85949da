"""What an integer graph computes, written down in NumPy: a specification that runs.

``run_integer`` interprets a graph node by node with the rules of :mod:`export.arithmetic` and the
definitions of ``lif_op.spec``; neither ONNX Runtime nor ``onnx.reference`` has a part in it. On
integer tensors its results are exact, and an implementation that differs in one bit is wrong.
Scales are applied in float32 in one stated order, so quantized results are exact as well. Float
islands (Tanh, Sigmoid, Softmax) follow NumPy's float32 functions, whose last bits are nobody's
contract.

One module per family of operators holds the rules; :mod:`export.oracle.table` says which operator
has which.
"""

from __future__ import annotations

from export.oracle.run import known_operators, run_integer

__all__ = ["known_operators", "run_integer"]
