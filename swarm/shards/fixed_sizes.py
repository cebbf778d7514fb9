"""A traced program without the arithmetic of sizes that never change.

The tracer records how sizes follow from one another, as tensors of one number: of the nearly three hundred operations
of a small layer that is two thirds. Sizes that are the same for two pasts of different lengths are constants of the
model. Measured on an AMD EPYC, a small layer after milliseconds of anything else: 0.63 instead of 0.72 ms.
"""

from __future__ import annotations

from typing import Any

import torch


def with_fixed_sizes(program: Any, longer: Any) -> Any:
    """The program, with every size as a constant that is the same in `longer`, a trace over a longer past.

    Raises:
        RuntimeError: if the two consist of different operations.
    """
    graph = program.graph.copy()
    nodes, others = list(graph.nodes()), list(longer.graph.nodes())
    if [node.kind() for node in nodes] != [other.kind() for other in others]:
        raise RuntimeError("what is computed depends on how long the past is")
    for node, other in zip(nodes, others, strict=True):
        size = _size(node)
        if size is not None and size == _size(other):
            constant = graph.insertConstant(size)
            constant.node().moveBefore(node)
            node.output().replaceAllUsesWith(constant)
    for simplify in (
        torch._C._jit_pass_erase_shape_information,  # or all sizes would be taken for constants
        torch._C._jit_pass_constant_propagation,
        torch._C._jit_pass_peephole,
        torch._C._jit_pass_cse,
        torch._C._jit_pass_dce,
    ):
        simplify(graph)
    return torch._C._create_function_from_graph("span", graph)


def _size(node: Any) -> int | None:
    """What a node that asks for one size found when it was traced; None for other nodes."""
    if node.kind() != "aten::size" or node.inputsSize() != 2:
        return None
    tensor, dimension = node.inputs()
    sizes, index = tensor.type().sizes(), dimension.toIValue()
    return None if sizes is None or index is None else int(sizes[index])
