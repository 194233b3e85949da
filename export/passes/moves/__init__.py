"""How a DequantizeLinear moves through each operator, one module per family of operators.

Every move takes the :class:`~export.passes.moves.site.Site` of a node, emits the integer operator
and returns what its outputs are as quantized operands. It raises
:class:`~export.passes.moves.site.Illegal` where the move would change the real function;
:mod:`export.passes.legality` is the table of all moves and states the conditions in words.
"""
