"""Weights for an architecture: found among the state dicts of a file, under whatever they are wrapped in.

Tensors are taken only where all those of the network are there and have its shapes. What no state dict holds, such as
the activation between two layers of a new head, is not guessed.
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
"""What DataParallel, AveragedModel, torch.compile and others put into names, at any place."""

_COUNTERS: Final = {"num_batches_tracked", "n_averaged", "total_ops", "total_params"}
"""Last parts of names that no result depends on: of batch norms, AveragedModel and profilers."""

_OLD_NAMES: Final = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)
"""Names in files that torchvision has published, and what it calls the layers since."""

_AVERAGE: Final = re.compile("ema|average|swa", re.IGNORECASE)
_NAMED: Final = 3


@dataclass(frozen=True)
class Architecture:
    """A network that lacks its weights.

    Attributes:
        name: of the architecture.
        module: with any number of classes, and without parts that are for training only.
        unused: first parts of the names of those.
    """

    name: str
    module: nn.Module
    unused: frozenset[str] = frozenset()

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        """Shape of every tensor but counters."""
        return {name: list(value.shape) for name, value in self.module.state_dict().items() if not _is_counter(name)}

    @cached_property
    def children(self) -> frozenset[str]:
        """First parts of the names of everything in it, with tensors or without."""
        return frozenset(name.partition(".")[0] for name in (*dict(self.module.named_children()), *self.shapes))

    @cached_property
    def last(self) -> str:
        """Name of the layer with an output for each class."""
        return [name for name, shape in self.shapes.items() if len(shape) >= 2][-1].rpartition(".")[0]

    @cached_property
    def first(self) -> str:
        """Name of the tensor that is multiplied with pixels."""
        return next(name for name, shape in self.shapes.items() if len(shape) == 4)


@dataclass(frozen=True, eq=False)
class Weights:
    """Tensors of a file by the names that the architecture has for them.

    Attributes:
        key: the keys and the prefix that lead to them, joined by dots; "" where there are none.
        state: all of its tensors; while they are looked for, some may be missing, and others be among them.
        unused: those of parts that are for training only.
        beside: others of the same state dict.
        facts: how the file differs from a state dict of the network, in words.
    """

    key: str
    state: Tensors
    unused: Tensors
    beside: Tensors
    facts: tuple[str, ...]


def weights_of(architecture: Architecture, states: Mapping[str, Tensors], file: str, key: str | None = None) -> Weights:
    """Find the weights of an architecture.

    Args:
        architecture: what they have to fit.
        states: state dicts by key, see `read_state_dicts`.
        file: what to call it.
        key: take those under this key or a longer one that begins with it; None: those that fit, and of several those
            that are not called an average of others.

    Raises:
        WeightsError: none fit, or it is not known which to take.
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
    """Put weights into a network of as many classes, as float32, and set it to evaluation.

    Raises:
        WeightsError: they are not finite floating-point numbers.
    """
    given = {name: value for name, value in state.items() if not _is_counter(name)}
    for name, value in given.items():
        if not value.is_floating_point():
            raise WeightsError(f"{file}: {name} is of {value.dtype}; use weights that are floating-point numbers")
        if not torch.isfinite(value.float()).all():
            raise WeightsError(f"{file}: {name} holds NaN or infinite values; use weights that are finite")
    whole = module.state_dict()  # with the counters of batch norms, and the versions of its parts
    whole.update({name: value.float() for name, value in given.items()})
    module.load_state_dict(whole)
    return module.eval()


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in _COUNTERS


def _candidates(wanted: Architecture, where: str, tensors: Tensors) -> Iterator[Weights]:
    """What may be the weights in a state dict: under each prefix that most of the names are found under, best first."""
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
    """The tensors without wrappers and old spellings in their names, and the wrappers in words."""
    found, dropped = {}, set()
    for name, value in tensors.items():
        dropped |= _WRAPPERS.intersection(name.split("."))
        present = _unwrapped(name)
        for old, new in _OLD_NAMES:
            present = old.sub(new, present)
        found[present] = value
    if len(found) < len(tensors):
        return tensors, ()  # some differ in these parts only
    return found, tuple(f"dropped '{wrapper}' from names" for wrapper in sorted(dropped))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _with_own_head(wanted: Architecture, state: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """Take a single layer in the place of the last one for that; a layer without a bias adds zeros."""
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
    """Those under a key, which may be spelled with wrappers."""
    spellings = {key, _unwrapped(key)}
    exact = [weights for weights in every if weights.key in spellings]
    return exact or [w for w in every if any(w.key.startswith(f"{spelling}.") for spelling in spellings)]


def _problems(wanted: Architecture, state: Tensors) -> dict[str, str]:
    """What keeps tensors from being the weights, by their names."""
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
    """That a file has no weights of the architecture, under a key or at all."""
    if key is None or not every:
        return f"expected weights of {wanted.name}, found none named {wanted.last}.weight; are they of another model?"
    return (
        f"expected weights of {wanted.name} under {key}, found some under {_listed(w.key or 'no key' for w in every)}"
    )


def _complaint(wanted: Architecture, weights: Weights) -> str:
    """Why tensors are not the weights, and what to do if it is the known network with other layers at an end."""
    state, problems = weights.state, _problems(wanted, weights.state)
    way_out = "build the network in Python and pass it to edgeq.frontends.torch_export.trace"
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
    """What is beside weights and of no others, without counters."""
    known = {id(value) for other in others for value in other.state.values()}
    return {name: v for name, v in weights.beside.items() if id(v) not in known and not _is_counter(name)}


def _check_whole(wanted: Architecture, weights: Weights, beside: Tensors, file: str) -> None:
    """Refuse weights with layers beside them, which may be a part of the network.

    Raises:
        WeightsError: there are some.
    """
    if layers := _layers(beside):
        way_out = f"add --weights-key {weights.key}" if weights.key else "save a state dict without it"
        raise WeightsError(
            f"{file}: has all of {wanted.name} and, beside it, {_listed(layers)}; if that is no part of the network, "
            f"{way_out}"
        )


def _layers(tensors: Tensors) -> list[str]:
    """Names of those that are weights of layers: floating-point numbers in two or more dimensions."""
    return [name for name, value in tensors.items() if value.dim() >= 2 and value.is_floating_point()]


def _facts(wanted: Architecture, weights: Weights, others: list[Weights], beside: Tensors) -> tuple[str, ...]:
    """How the file of some weights differs from a state dict of the network, in words."""
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
