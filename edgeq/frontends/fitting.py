"""Networks with the weights that a file has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from edgeq.errors import WeightsError, printable
from edgeq.frontends.state_dicts import Architecture, Weights, filled, weights_of
from edgeq.frontends.weights_file import Tensors


def with_classes(
    build: Callable[..., nn.Module],
    name: str,
    states: Mapping[str, Tensors],
    file: str,
    key: str | None,
    unused: frozenset[str] = frozenset(),
) -> tuple[nn.Module, Weights]:
    """Build a classifier of as many classes as its weights have.

    Args:
        build: builds it with arbitrary weights, of `num_classes` classes if it is called with them.
        name: of the architecture, in messages.
        states: state dicts by key, see `read_state_dicts`.
        file: name of the file in messages.
        key: see `weights_of`.
        unused: names of submodules that only training uses.

    Returns:
        The classifier in evaluation mode, and which weights were taken.

    Raises:
        WeightsError: as for `weights_of` and `filled`.
    """
    wanted = Architecture(name, build(), unused)
    found = weights_of(wanted, states, file, key)
    return filled(build(num_classes=len(found.state[f"{wanted.last}.weight"])), found.state, file), found


def as_built(
    module: nn.Module,
    name: str,
    states: Mapping[str, Tensors],
    file: str,
    key: str | None,
    unused: frozenset[str] = frozenset(),
) -> Weights:
    """Load weights into a network as it is; arguments as for `with_classes`.

    Returns:
        Which weights were taken.

    Raises:
        WeightsError: as for `weights_of` and `filled`, or the last layer has another number of outputs.
    """
    wanted = Architecture(name, module, unused)
    found = weights_of(wanted, states, file, key)
    for tensor, shape in wanted.shapes.items():
        if list(found.state[tensor].shape) != shape:
            raise WeightsError(
                f"{file}: these are not weights of {name}: {tensor} is {list(found.state[tensor].shape)}, expected "
                f"{shape}"
            )
    filled(module, found.state, file)
    return found


def noted(file: str, weights: Weights) -> tuple[str, ...]:
    """Return what the user should know of the weights that were taken from a file, if anything, as a line."""
    return (printable(f"{file}: {'; '.join(weights.facts)}"),) if weights.facts else ()
