"""Weights in whatever wrapping: what is taken and said, and what is refused because a file cannot tell."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision import models

from edgeq.errors import WeightsError
from edgeq.frontends.loaded import digest
from edgeq.frontends.state_dicts import Architecture, Weights, filled, weights_of

Tensors = dict[str, Tensor]
States = dict[str, Tensors]


def net(classes: int = 10) -> nn.Module:
    """A stem with a batch norm, a body, and a head of two layers."""
    torch.manual_seed(0)
    parts = {
        "stem": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        "body": nn.Conv2d(4, 6, 3, bias=False),
        "relu": nn.ReLU(),
        "head": nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, classes)),
    }
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    return module


WANTED = Architecture("net", net(), frozenset({"aux"}))
STATE = net(7).state_dict()
OTHER = {name: value + 1 for name, value in STATE.items()}
SMALLER = {"stem.0.weight": torch.ones(2, 3, 3, 3), "head.3.weight": torch.ones(7, 5)}


def under(prefix: str, state: Tensors) -> Tensors:
    return {f"{prefix}.{name}": value for name, value in state.items()}


def without(*names: str, state: Tensors = STATE, **more: Tensor) -> Tensors:
    kept = {name: value for name, value in state.items() if name not in names}
    return kept | {name.replace("__", "."): value for name, value in more.items()}


def found(states: States, key: str | None = None) -> Weights:
    return weights_of(WANTED, states, "w.pth", key)


def test_a_plain_state_dict_is_taken_as_it_is() -> None:
    weights = found({"": STATE})
    assert (weights.key, weights.facts) == ("", ())
    assert digest(weights.state) == digest(STATE)


WRAPPED: dict[str, tuple[States, str, tuple[str, ...]]] = {
    "a container": ({"state_dict": STATE}, "state_dict", ("took state_dict",)),
    "a prefix": ({"": under("model", STATE)}, "model", ("took model",)),
    "a prefix that nobody has seen": ({"": under("a.b.c", STATE)}, "a.b.c", ("took a.b.c",)),
    "both": ({"state_dict": under("model", STATE)}, "state_dict.model", ("took state_dict.model",)),
    "DataParallel": ({"": under("module", STATE)}, "", ("dropped 'module' from names",)),
    "DataParallel of a part": (
        {"": {name.replace("stem.", "stem.module."): value for name, value in STATE.items()}},
        "",
        ("dropped 'module' from names",),
    ),
    "compiled and parallel": (
        {"": under("_orig_mod.module", STATE)},
        "",
        ("dropped '_orig_mod' from names", "dropped 'module' from names"),
    ),
    "an average": (
        {"model_ema": under("module", STATE) | {"n_averaged": torch.tensor(5)}},
        "model_ema",
        ("took model_ema", "dropped 'module' from names"),
    ),
    "counters of a profiler": (
        {"": STATE | {"stem.0.total_ops": torch.zeros(1), "total_params": torch.zeros(1)}},
        "",
        (),
    ),
    "no counters of batch norms": ({"": without("stem.1.num_batches_tracked")}, "", ()),
    "what only training uses": (
        {"": STATE | {"aux.fc.weight": torch.ones(7, 3), "aux.fc.bias": torch.ones(7)}},
        "",
        ("left out what only training uses: aux.fc.weight, aux.fc.bias",),
    ),
    "weights of a loss": (
        {"state_dict": under("model", STATE) | {"loss.weight": torch.ones(7), "loss.seen": torch.ones(2, 2).long()}},
        "state_dict.model",
        ("took state_dict.model", "left out what is not of net: loss.weight, loss.seen"),
    ),
    "an average beside": (
        {"model": STATE, "model_ema": OTHER},
        "model",
        ("took model, not model_ema (--weights-key chooses)",),
    ),
    "an average before": (
        {"state_dict_ema": OTHER, "state_dict": STATE},
        "state_dict",
        ("took state_dict, not state_dict_ema (--weights-key chooses)",),
    ),
    "an average among the names": (
        {"": STATE | under("ema_model", OTHER)},
        "",
        ("took those without a key, not ema_model (--weights-key chooses)",),
    ),
    "a network of something else beside": ({"model": STATE, "teacher": SMALLER}, "model", ("took model",)),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_wrapped_weights(case: str) -> None:
    states, key, facts = WRAPPED[case]
    weights = found(states)
    assert (weights.key, weights.facts) == (key, facts)
    expected = STATE if case != "no counters of batch norms" else states[""]
    assert digest(weights.state) == digest(expected)


@pytest.mark.parametrize("case", WRAPPED)
def test_the_key_of_a_record_finds_the_same(case: str) -> None:
    states, key, _ = WRAPPED[case]
    assert digest(found(states, key).state) == digest(found(states).state)


WORDS = st.lists(st.sampled_from(["module", "_orig_mod", "model", "backbone", "net", "0", "stem", "head"]), max_size=3)


@given(st.lists(st.sampled_from(["state_dict", "model", "module", "ckpt"]), max_size=2), WORDS)
def test_any_stack_of_wrappings(keys: list[str], prefix: list[str]) -> None:
    state = {".".join([*prefix, name]): value for name, value in STATE.items()}
    weights = found({".".join(keys): state})
    assert digest(weights.state) == digest(STATE)
    assert bool(weights.facts) == bool(keys or prefix)


@pytest.mark.parametrize("key", ["model_ema", "model_ema.module"])
def test_a_key_chooses(key: str) -> None:
    weights = found({"model": STATE, "model_ema": under("module", OTHER)}, key)
    assert digest(weights.state) == digest(OTHER)
    assert weights.facts == ("took model_ema", "dropped 'module' from names")


def test_the_beginning_of_a_key_chooses() -> None:
    states = {"state_dict": under("student", STATE) | under("teacher", OTHER), "swa": STATE}
    assert digest(found(states, "state_dict.teacher").state) == digest(OTHER)
    assert found({"state_dict": under("model", STATE)}, "state_dict").key == "state_dict.model"


def test_layers_beside_the_weights_are_left_out_if_asked() -> None:
    weights = found({"": under("backbone", STATE) | {"neck.weight": torch.ones(3, 7)}}, "backbone")
    assert weights.facts == ("took backbone", "left out what is not of net: neck.weight")


HEADS: dict[str, tuple[Tensors, tuple[str, ...]]] = {
    "behind a dropout": (
        {"head.3.1.weight": STATE["head.3.weight"], "head.3.1.bias": STATE["head.3.bias"]},
        ("took head.3.1 as the last layer, head.3",),
    ),
    "at another place": (
        {"head.7.weight": STATE["head.3.weight"], "head.7.bias": STATE["head.3.bias"]},
        ("took head.7 as the last layer, head.3",),
    ),
    "under a name": (
        {"head.out.weight": STATE["head.3.weight"]},
        ("took head.out as the last layer, head.3", "head.3 has no bias"),
    ),
    "without a bias": ({"head.3.weight": STATE["head.3.weight"]}, ("head.3 has no bias",)),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_last_layer_of_ones_own(case: str) -> None:
    layer, facts = HEADS[case]
    weights = found({"": without("head.3.weight", "head.3.bias") | layer})
    assert weights.facts == facts
    bias = STATE["head.3.bias"] if any(name.endswith("bias") for name in layer) else torch.zeros(7)
    assert digest(weights.state) == digest(STATE | {"head.3.bias": bias})


ONE = torch.ones(1, 1)
REFUSED: dict[str, tuple[States, str | None, str]] = {
    "missing": ({"": without("stem.0.bias")}, None, "these are not weights of net: stem.0.bias is missing"),
    "missing under a key": (
        {"model": without("stem.0.bias")},
        None,
        "these are not weights of net under model: stem.0.bias is missing",
    ),
    "a layer more": (
        {"": STATE | {"stem.5.weight": ONE, "stem.5.bias": ONE}},
        None,
        "these are not weights of net: stem.5.weight is unexpected; stem.5.bias is unexpected",
    ),
    "a slope in the place of a ReLU": (
        {"": STATE | {"relu.weight": torch.ones(1)}},
        None,
        "these are not weights of net: relu.weight is unexpected",
    ),
    "shape": (
        {"": STATE | {"body.weight": torch.zeros(6, 4, 5, 5)}},
        None,
        "these are not weights of net: body.weight is [6, 4, 5, 5], expected [6, 4, 3, 3]",
    ),
    "many": (
        {"": STATE | {f"stem.{i}.weight": ONE for i in range(5, 10)}},
        None,
        "stem.5.weight is unexpected; stem.6.weight is unexpected; stem.7.weight is unexpected and 2 more",
    ),
    "the closest of several": (
        {"": SMALLER, "model": without("stem.0.bias"), "other": SMALLER},
        None,
        "these are not weights of net under model: stem.0.bias is missing",
    ),
    "no head": (
        {"": without("head.3.weight", "head.3.bias")},
        None,
        "these are not weights of net: head.3.weight is missing; head.3.bias is missing",
    ),
    "no classes": (
        {"": STATE | {"head.3.weight": torch.zeros(0, 5), "head.3.bias": torch.zeros(0)}},
        None,
        "these are not weights of net: head.3.weight is [0, 5], expected [classes, 5]",
    ),
    "more classes than values": (
        {"": STATE | {"head.3.weight": torch.zeros(2**40, 0)}},
        None,
        "these are not weights of net: head.3.weight is [1099511627776, 0], expected [classes, 5]",
    ),
    "biases of other classes": (
        {"": STATE | {"head.3.bias": torch.zeros(5)}},
        None,
        "these are not weights of net: head.3.bias is [5], expected [classes]",
    ),
    "no dimensions": (
        {"": STATE | {"head.3.weight": torch.ones(()), "stem.0.weight": torch.ones(())}},
        None,
        "these are not weights of net: stem.0.weight is [], expected [4, 3, 3, 3]; head.3.weight is [], expected [clas",
    ),
    "another network": (
        {"": {"a.weight": ONE, "b.weight": ONE}},
        None,
        "expected weights of net, found none named head.3.weight; are they of another model?",
    ),
    "a head of several layers": (
        {"": without("head.3.weight", "head.3.bias", head__1__weight=torch.ones(9, 5), head__4__weight=ONE)},
        None,
        "another head than net has (head.0.weight [5, 6], head.1.weight [9, 5], head.4.weight [1, 1]), and no file "
        "says what is between layers; build the network in Python and pass it to edgeq.trace",
    ),
    "one layer of another width": (
        {"": without("head.0.weight", "head.0.bias", "head.3.weight", "head.3.bias", head__1__weight=torch.ones(7, 6))},
        None,
        "another head than net has (head.1.weight [7, 6]), and no file says what is between layers; build the",
    ),
    "a head of ones own": (
        {"": under("backbone", without("head.3.weight", "head.3.bias")) | {"out.weight": torch.ones(7, 5)}},
        None,
        "another head than net has (head.0.weight [5, 6], out.weight [7, 5]), and no file says what is between layers",
    ),
    "images of one channel": (
        {"": STATE | {"stem.0.weight": torch.ones(4, 1, 3, 3)}},
        None,
        "stem.0.weight takes images of 1, not 3 channels, as edgeq reads them; build the network in Python and pass it "
        "to edgeq.trace",
    ),
    "layers behind": (
        {"": under("backbone", STATE) | {"neck.weight": torch.ones(3, 7)}},
        None,
        "has all of net and, beside it, neck.weight; if that is no part of the network, add --weights-key backbone",
    ),
    "layers behind, without a key": (
        {"": STATE | {"neck.weight": torch.ones(3, 7)}},
        None,
        "has all of net and, beside it, neck.weight; if that is no part of the network, save a state dict without it",
    ),
    "several": (
        {"student": STATE, "teacher": OTHER},
        None,
        "there are weights of net under student, teacher; choose with --weights-key",
    ),
    "several averages": (
        {"ema1": STATE, "ema2": OTHER},
        None,
        "there are weights of net under ema1, ema2; choose with --weights-key",
    ),
    "no such key": (
        {"model": STATE, "model_ema": OTHER},
        "ema",
        "expected weights of net under ema, found some under model, model_ema",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_do_not_fit(case: str) -> None:
    states, key, message = REFUSED[case]
    with pytest.raises(WeightsError, match=f"^w.pth: .*{re.escape(message)}"):
        found(states, key)


UNUSABLE = {
    "integers": (torch.zeros(4, dtype=torch.int32), "is of torch.int32; use weights that are floating-point numbers"),
    "beyond float32": (torch.full((4,), 1e300, dtype=torch.float64), "holds NaN or infinite values; use"),
    "NaN": (torch.full((4,), float("nan")), "holds NaN or infinite values; use"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_values_that_cannot_be_used(case: str) -> None:
    value, message = UNUSABLE[case]
    with pytest.raises(WeightsError, match=f"^w.pth: stem.0.bias {message}"):
        filled(net(7), STATE | {"stem.0.bias": value}, "w.pth")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(kind: torch.dtype) -> None:
    module = filled(net(7), {n: v.to(kind) if v.is_floating_point() else v for n, v in STATE.items()}, "w.pth")
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, STATE[name].to(kind).to(value.dtype), rtol=0, atol=0)
    assert not module.training


OLD: dict[str, Callable[[str], str]] = {
    "densenet121": lambda name: re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name),
    "vit_b_32": lambda name: name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."),
}


@pytest.mark.parametrize("model", OLD)
def test_names_in_published_files(model: str) -> None:
    """The files that torchvision downloads for these still have the names of old versions."""
    with torch.device("meta"):
        module = models.get_model(model, weights=None)
    state: dict[str, Any] = module.state_dict()
    old = {OLD[model](name): value for name, value in state.items()}
    assert old.keys() != state.keys()
    weights = weights_of(Architecture(model, module), {"": old}, "w.pth")
    assert weights.state.keys() == state.keys()
    assert weights.facts == ()
