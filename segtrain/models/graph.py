"""Autograd's graph behind an output: the parameters that it depends on, and the function that it ends in."""

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

# They move values, or enlarge: what was a probability before is one after.
SHAPES = {
    "Alias", "Clone", "Expand", "Permute", "ReshapeAlias", "Select", "Slice", "Split", "SplitWithSizes", "Squeeze",
    "ToCopy", "Transpose", "T", "Unbind", "UnsafeView", "Unsqueeze", "UpsampleBilinear2D", "UpsampleNearest2D", "View",
    "ReplicationPad2D", "UnsafeSplit",
}  # fmt: skip
JOINS = {"Cat", "Stack"}


def draws_and_unused(draws: bool, unused: int) -> str:
    """What a network draws as it trains, and how many parameters no output of it depends on, for people."""
    drawn = "draws in training, other numbers at other world sizes" if draws else "draws nothing"
    frozen = f"{unused} parameters unused and frozen" if unused else "all parameters used"
    return f"{drawn}; {frozen}"


def unused_parameters(network: nn.Module, outputs: Iterable[Any]) -> set[str]:
    """Names of the parameters that none of the outputs (tensors or nodes of the graph) depends on."""
    reached = set[int]().union(*(leaves(output) for output in outputs))
    return {name for name, parameter in network.named_parameters() if id(parameter) not in reached}


def leaves(output: Any) -> dict[int, Tensor]:
    """The leaf tensors that an output (a tensor or a node of the graph) depends on, by id."""
    seen: set[Any] = set()
    found: dict[int, Tensor] = {}
    waiting: list[Any] = [output.grad_fn if isinstance(output, Tensor) else output]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith("AccumulateGrad"):
            found[id(node.variable)] = node.variable
        waiting += [following for following, _ in node.next_functions]
    return found


def endings(node: Any) -> set[str]:
    """The functions that a node's value comes from, behind those that only change its shape."""
    while node is not None and _name(node) in SHAPES:
        node = node.next_functions[0][0]
    if node is None:
        return {"nothing"}
    if _name(node) in JOINS:
        return set[str]().union(*(endings(following) for following, _ in node.next_functions))
    return {_name(node)}


def stacked(tensor: Tensor) -> list[Any]:
    """The nodes of the tensors that were stacked along dimension 1; the stack's own where they cannot be told apart."""
    node: Any = tensor.grad_fn
    count = tensor.shape[1]
    while node is not None and _name(node) in SHAPES:
        node = node.next_functions[0][0]
    if node is not None and _name(node) in JOINS and len(node.next_functions) == count:
        return [following for following, _ in node.next_functions]
    return [tensor.grad_fn] * count


def _name(node: Any) -> str:
    return re.sub(r"Backward\d*$", "", node.name())
