"""Find the weights for an architecture among the state dicts of a file, under any prefixes and wrappers.

Weights are accepted only if all tensors of the network are there and have its shapes. Whatever a state dict does not
contain, such as the activation between two layers of a new head, is not guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import torch
from torch import nn

from edgeq.errors import WeightsError
from edgeq.frontends.weights_file import Tensors

_WRAPPERS: Final = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Name parts that DataParallel, AveragedModel, torch.compile and others insert at any place."""

_COUNTERS: Final = {"num_batches_tracked", "n_averaged", "total_ops", "total_params"}
"""Last name parts of tensors that no result depends on: counters of batch norms, AveragedModel and profilers."""

_OLD_NAMES: Final = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)
"""Patterns of names in old files of torchvision, and their replacement in its present names."""

_AVERAGE: Final = re.compile("ema|average|swa", re.IGNORECASE)
_NAMED: Final = 3  # names listed in a message


@dataclass(frozen=True)
class Architecture:
    """An architecture to find weights for.

    Attributes:
        name: name of the architecture.
        module: the network with any number of classes, without submodules that only training uses.
        unused: names of those submodules.
    """

    name: str
    module: nn.Module
    unused: frozenset[str] = frozenset()

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        """Shape of every tensor by name, without counters."""
        return {name: list(value.shape) for name, value in self.module.state_dict().items() if not _is_counter(name)}

    @cached_property
    def children(self) -> frozenset[str]:
        """First name parts of all submodules and tensors."""
        return frozenset(name.partition(".")[0] for name in (*dict(self.module.named_children()), *self.shapes))

    @cached_property
    def last(self) -> str:
        """Name of the last layer, whose outputs are the logits."""
        return [name for name, shape in self.shapes.items() if len(shape) >= 2][-1].rpartition(".")[0]

    @cached_property
    def first(self) -> str:
        """Name of the weights of the first convolution."""
        return next(name for name, shape in self.shapes.items() if len(shape) == 4)


@dataclass(frozen=True, eq=False)
class Weights:
    """A set of tensors in a file that may be the weights of an architecture.

    Attributes:
        key: the keys of nested dicts and the name prefix that lead to the tensors, joined by dots; may be "".
        state: the tensors by the architecture's names; a candidate may lack some and have others.
        unused: tensors of submodules that only training uses.
        beside: other tensors of the same state dict.
        facts: differences between the file and a state dict of the network, in words.
    """

    key: str
    state: Tensors
    unused: Tensors
    beside: Tensors
    facts: tuple[str, ...]


def weights_of(architecture: Architecture, states: Mapping[str, Tensors], file: str, key: str | None = None) -> Weights:
    """Find the weights of an architecture.

    Args:
        architecture: the architecture that the weights must fit.
        states: state dicts by key, see `read_state_dicts`.
        file: name of the file in messages.
        key: take the weights under this key, or under a longer one that starts with it; None takes those that fit and,
            if several do, those that are not named as an average.

    Raises:
        WeightsError: no weights fit, or it is unclear which to take.
    """
    every = [weights for where, tensors in states.items() for weights in _candidates(architecture, where, tensors)]
    fitting = [weights for weights in every if not _problems(architecture, weights.state)]
    near = every if key is None else _under(key, every)
    if not near:
        raise WeightsError(f"{file}: {_nothing(architecture, every, key)}")
    found = [weights for weights in near if weights in fitting]
    if not found:
        closest = max(near, key=lambda weights: len(architecture.shapes.keys() & weights.state.keys()))
        raise WeightsError(f"{file}: {_complaint(architecture, closest)}")
    if len(found) > 1:
        found = [weights for weights in found if not _AVERAGE.search(weights.key)]
    if len(found) != 1:
        keys = _listed(weights.key or "no key" for weights in fitting)
        raise WeightsError(f"{file}: there are weights of {architecture.name} under {keys}; choose with --weights-key")
    others = [weights for weights in fitting if weights is not found[0]]
    beside = _strangers(found[0], others)
    if key is None:
        _check_whole(architecture, found[0], beside, file)
    facts = _facts(architecture, found[0], others if key is None else [], beside)
    names = architecture.module.state_dict()
    return replace(found[0], state={n: v for n, v in found[0].state.items() if n in names}, facts=facts)


def filled(module: nn.Module, state: Mapping[str, torch.Tensor], file: str) -> nn.Module:
    """Load weights into a network of as many classes, as float32, and set it to evaluation mode.

    Raises:
        WeightsError: the weights are not finite floating-point numbers.
    """
    given = {name: value for name, value in state.items() if not _is_counter(name)}
    for name, value in given.items():
        if not value.is_floating_point():
            raise WeightsError(f"{file}: {name} is of {value.dtype}; use weights that are floating-point numbers")
        if not torch.isfinite(value.float()).all():
            raise WeightsError(f"{file}: {name} holds NaN or infinite values; use weights that are finite")
    whole = module.state_dict()  # includes counters of batch norms and version metadata
    whole.update({name: value.float() for name, value in given.items()})
    module.load_state_dict(whole)
    return module.eval()


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in _COUNTERS


def _candidates(wanted: Architecture, where: str, tensors: Tensors) -> Iterator[Weights]:
    """Yield candidates in a state dict: one for each prefix under which most of the names are found, best first."""
    named, facts = _renamed(tensors)
    depths = {name.count(".") + 1 for name in wanted.shapes}
    counts: Counter[str] = Counter()
    for parts in (name.split(".") for name in named):
        ends = (depth for depth in depths if depth <= len(parts) and ".".join(parts[-depth:]) in wanted.shapes)
        counts.update(".".join(parts[:-depth]) for depth in ends)
    for i, (prefix, count) in enumerate(counts.most_common()):
        if i == 0 or 2 * count > len(wanted.shapes):
            start = f"{prefix}." if prefix else ""
            inside = {name: name[len(start) :] for name in named if name.startswith(start)}
            first = {name: inner.partition(".")[0] for name, inner in inside.items()}
            state = {inside[name]: named[name] for name in first if first[name] in wanted.children}
            unused = {name: named[name] for name in first if first[name] in wanted.unused}
            beside = {name: v for name, v in named.items() if inside.get(name) not in state and name not in unused}
            state, more = _with_own_head(wanted, state)
            yield Weights(".".join(filter(None, (where, prefix))), state, unused, beside, facts + more)


def _renamed(tensors: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """Return the tensors with present names, without wrappers, and what was dropped from names, in words."""
    found, dropped = {}, set()
    for name, value in tensors.items():
        dropped |= _WRAPPERS.intersection(name.split("."))
        present = _unwrapped(name)
        for old, new in _OLD_NAMES:
            present = old.sub(new, present)
        found[present] = value
    if len(found) < len(tensors):
        return tensors, ()  # some names differ only in these parts
    return found, tuple(f"dropped '{wrapper}' from names" for wrapper in sorted(dropped))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _with_own_head(wanted: Architecture, state: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """Rename a single layer at the place of the last one to its name, and add a zero bias if it has none."""
    weight, bias = f"{wanted.last}.weight", f"{wanted.last}.bias"
    missing = wanted.shapes.keys() - state.keys()
    extra = {name for name in state if name not in wanted.shapes and not _is_counter(name)}
    layer = min(extra, default=weight).rpartition(".")[0]
    names = {f"{layer}.weight": weight, f"{layer}.bias": bias}
    given = state.get(f"{layer}.weight")
    if given is None or not missing <= {weight, bias} or not extra <= names.keys() or (extra and weight in state):
        return state, ()
    same_place = layer.partition(".")[0] == wanted.last.partition(".")[0]
    if not same_place or list(given.shape[1:]) != wanted.shapes[weight][1:]:
        return state, ()
    state = {names.get(name, name): value for name, value in state.items()}
    facts: tuple[str, ...] = (f"took {layer} as the last layer, {wanted.last}",) if extra else ()
    if bias in wanted.shapes and bias not in state:
        state[bias] = torch.zeros(given.shape[:1], dtype=given.dtype)
        facts += (f"{wanted.last} has no bias",)
    return state, facts


def _under(key: str, every: list[Weights]) -> list[Weights]:
    """Return the candidates under a key, which may contain wrappers."""
    spellings = {key, _unwrapped(key)}
    exact = [weights for weights in every if weights.key in spellings]
    return exact or [w for w in every if any(w.key.startswith(f"{spelling}.") for spelling in spellings)]


def _problems(wanted: Architecture, state: Tensors) -> dict[str, str]:
    """Return what is wrong with each tensor that is missing, unexpected or of another shape, by name."""
    found = {name: "is missing" for name in wanted.shapes if name not in state}
    found |= {name: "is unexpected" for name in state if name not in wanted.shapes and not _is_counter(name)}
    head = f"{wanted.last}.weight"
    for name, expected in wanted.shapes.items():
        actual, shown = list(state[name].shape) if name in state else expected, list(map(str, expected))
        if name == head:
            fits, shown[0] = actual[:1] > [0] and actual[1:] == expected[1:], "classes"
        elif name == f"{wanted.last}.bias":
            fits, shown[0] = head in found or actual == list(state[head].shape[:1]), "classes"
        else:
            fits = actual == expected
        if not fits:
            found[name] = f"is {actual}, expected [{', '.join(shown)}]"
    return found


def _nothing(wanted: Architecture, every: list[Weights], key: str | None) -> str:
    """Return the message for a file without weights of the architecture, under a key or at all."""
    if key is None or not every:
        return f"expected weights of {wanted.name}, found none named {wanted.last}.weight; are they of another model?"
    return (
        f"expected weights of {wanted.name} under {key}, found some under {_listed(w.key or 'no key' for w in every)}"
    )


def _complaint(wanted: Architecture, weights: Weights) -> str:
    """Return the message for weights that do not fit, with a way out if only the first or last layers differ."""
    state, problems = weights.state, _problems(wanted, weights.state)
    way_out = "build the network in Python and pass it to edgeq.trace"
    shape, head = wanted.shapes[wanted.first], wanted.last.partition(".")[0]
    if problems.keys() == {wanted.first} and wanted.first in state:
        out, channels, *kernel = [*state[wanted.first].shape, 0, 0][:4]
        if [out, *kernel] == [shape[0], *shape[2:]]:
            return f"{wanted.first} takes images of {channels}, not {shape[1]} channels, as edgeq reads them; {way_out}"
    ends = {name: value for name, value in state.items() if name.partition(".")[0] == head} | weights.beside
    layers = _layers(ends)
    if set(layers) - wanted.shapes.keys() and all(name.partition(".")[0] == head for name in problems):
        found = _listed(f"{name} {list(ends[name].shape)}" for name in layers)
        return f"another head than {wanted.name} has ({found}), and no file says what is between layers; {way_out}"
    where = f" under {weights.key}" if weights.key else ""
    lines = _listed((f"{name} {problem}" for name, problem in problems.items()), "; ")
    return f"these are not weights of {wanted.name}{where}: {lines}"


def _strangers(weights: Weights, others: list[Weights]) -> Tensors:
    """Return the tensors beside some weights that belong to no other weights, without counters."""
    known = {id(value) for other in others for value in other.state.values()}
    return {name: v for name, v in weights.beside.items() if id(v) not in known and not _is_counter(name)}


def _check_whole(wanted: Architecture, weights: Weights, beside: Tensors, file: str) -> None:
    """Refuse weights with other layers beside them, which may be a part of the network.

    Raises:
        WeightsError: there are such layers.
    """
    if layers := _layers(beside):
        way_out = f"add --weights-key {weights.key}" if weights.key else "save a state dict without it"
        raise WeightsError(
            f"{file}: has all of {wanted.name} and, beside it, {_listed(layers)}; if that is no part of the network, "
            f"{way_out}"
        )


def _layers(tensors: Tensors) -> list[str]:
    """Return the names of tensors that are weights of layers: floating-point, with two or more dimensions."""
    return [name for name, value in tensors.items() if value.dim() >= 2 and value.is_floating_point()]


def _facts(wanted: Architecture, weights: Weights, others: list[Weights], beside: Tensors) -> tuple[str, ...]:
    """Return the differences between the file of some weights and a state dict of the network, in words."""
    facts = list(weights.facts)
    if others:
        keys = _listed(other.key or "those without a key" for other in others)
        facts.insert(0, f"took {weights.key or 'those without a key'}, not {keys} (--weights-key chooses)")
    elif weights.key:
        facts.insert(0, f"took {weights.key}")
    if weights.unused:
        facts.append(f"left out what only training uses: {_listed(weights.unused)}")
    if beside:
        facts.append(f"left out what is not of {wanted.name}: {_listed(beside)}")
    return tuple(facts)


def _listed(names: Iterable[str], comma: str = ", ") -> str:
    found = list(names)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"{comma.join(found[:_NAMED])}{more}"
