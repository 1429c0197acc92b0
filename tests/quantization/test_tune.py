from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import MODULES, SHAPE, Heard, Impatient, Quantized, images, output_step, quantized, worked

from edgeq.artifacts.checkpoint import Checkpoint
from edgeq.errors import ArtifactError, DataError
from edgeq.numerics.weights import QuantLayer
from edgeq.packed.pack import pack
from edgeq.quantization.augment import augmented
from edgeq.quantization.tune import tune

MODULE = import_module("edgeq.quantization.tune")  # `edgeq.tune` is the function
STRETCH = 1.3


def stretched(found: Quantized) -> dict[str, QuantLayer]:
    """Layers whose scales are all too large by a factor."""
    return {
        name: replace(layer, weight=replace(layer.weight, scale=np.float32(STRETCH) * layer.weight.scale))
        for name, layer in found.layers.items()
    }


def divergence(found: Quantized, layers: dict[str, QuantLayer]) -> float:
    """Mean KL divergence of the class probabilities from the float network's on images not tuned on, in nats."""
    x = torch.from_numpy(images(64, 9))
    with torch.inference_mode():
        expected = found.network(x).double().log_softmax(1)
        logits = pack(found.network, layers, found.record, found.plan)(x).double().log_softmax(1)
    return float((expected.exp() * (expected - logits)).sum(1).mean())


def tuned(found: Quantized, steps: int = 60, seed: int = 0) -> dict[str, QuantLayer]:
    return tune(found.network, found.record, worked(found.plan, steps=steps, seed=seed), found.layers, found.batches)


def as_bytes(layers: dict[str, QuantLayer]) -> dict[str, tuple[bytes, bytes, bytes]]:
    return {
        name: (layer.weight.data.tobytes(), layer.weight.scale.tobytes(), layer.bias.tobytes())
        for name, layer in layers.items()
    }


@pytest.fixture(autouse=True)
def fast_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger steps than those that suit a rounded network, so that few of them change something."""
    monkeypatch.setattr(MODULE, "_RATE", 1e-2)


def test_no_steps_give_the_layers_given() -> None:
    found = quantized("residual", "2bit")
    assert tune(found.network, found.record, found.plan, found.layers, []) == found.layers


def test_no_layers_give_none() -> None:
    found = quantized("residual", "2bit")
    assert tune(found.network, found.record, worked(found.plan, steps=5), {}, found.batches) == {}


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize("name", MODULES)
def test_wrong_scales_come_back(name: str, act_bits: int) -> None:
    found = quantized(name, "8bit", act_bits)
    wrong = stretched(found)
    layers = tune(found.network, found.record, worked(found.plan, steps=100), wrong, [*found.batches, images(64, 3)])
    assert divergence(found, layers) < divergence(found, wrong) / 10
    # Not all the way back: layers whose errors cancel each other are as good.
    ratios = [layer.weight.scale / found.layers[at].weight.scale for at, layer in layers.items()]
    assert np.abs(np.log(np.concatenate(ratios))).mean() < 0.75 * np.log(STRETCH)


def trainer(found: Quantized, layers: dict[str, QuantLayer]) -> Any:
    """What `tune` trains with, caught before its first step."""
    made: list[Any] = []

    class Caught(MODULE._Trainer):  # type: ignore[misc,name-defined]  # mypy sees the function
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "_Trainer", Caught)
        patch.setattr(Caught, "step", lambda self, number: None)
        tune(found.network, found.record, worked(found.plan, steps=1), layers, [images(64, 3)])
    return made[0]


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize("name", MODULES)
def test_what_is_trained_is_what_is_exported(name: str, act_bits: int) -> None:
    found = quantized(name, "4bit", act_bits)
    x = torch.from_numpy(images(16, 9))
    with torch.no_grad():
        (logits,), _ = trainer(found, found.layers)._run((x,), quantized=True)
        expected = pack(found.network, found.layers, found.record, found.plan)(x)
    step = output_step(found.record) if act_bits == 8 else 1e-4
    assert ((logits - expected).abs() <= 1.01 * step).float().mean() > 0.99


def test_training_that_goes_astray_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_RATE", 10.0)
    found = quantized("residual", "4bit")
    assert as_bytes(tuned(found, 10)) == as_bytes(found.layers)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_best_point_on_the_way_is_taken(share: float) -> None:
    found = quantized("residual", "8bit")
    made = trainer(found, stretched(found))
    # The scales are right again at this share of the way; at 0 the way leads off.
    end = -np.log(STRETCH) / share if share else 1.0
    for layer in made.layers.values():
        layer.stretch.data.fill_(end)
    made.settle()
    for layer in made.layers.values():
        torch.testing.assert_close(layer.stretch.detach(), torch.full_like(layer.stretch, share * end))


@cache
def trained(name: str, act_bits: int) -> dict[str, QuantLayer]:
    return tuned(quantized(name, "4bit", act_bits), 20)


@pytest.mark.parametrize("act_bits", [8, 32])
@pytest.mark.parametrize("name", MODULES)
def test_bytes_stay_and_scales_and_biases_lie_on_their_grids(name: str, act_bits: int) -> None:
    found, layers = quantized(name, "4bit", act_bits), trained(name, act_bits)
    assert list(layers) == list(found.layers)
    for node in found.network.graph.layers:
        layer, given = layers[node.name], found.layers[node.name]
        np.testing.assert_array_equal(layer.weight.data, given.weight.data, strict=True)
        assert (layer.weight.width, layer.weight.shape) == (given.weight.width, given.weight.shape)
        np.testing.assert_array_equal(layer.weight.scale, layer.weight.scale.astype(np.float16).astype(np.float32))
        assert (layer.weight.scale > 0).all()
        np.testing.assert_array_equal(layer.bias, layer.bias.astype(np.float16).astype(np.float32))
        assert (layer.weight.scale != given.weight.scale).any()
        if act_bits == 8:
            step = layer.weight.scale.astype(np.float64) * found.record.activations[node.inputs[0]].scale
            off = np.abs(layer.bias - np.rint(layer.bias / step) * step)
            assert (off <= np.abs(layer.bias) * 2.0**-11 + 1e-7).all()


def test_a_layer_in_float_is_left_out() -> None:
    found = quantized("residual", "2bit")
    some = {name: layer for name, layer in found.layers.items() if name != "head.0"}
    assert tune(found.network, found.record, worked(found.plan, steps=2), some, found.batches).keys() == some.keys()


def test_each_step_takes_augmented_images_and_so_do_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def noted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(tuple(images.shape))
        return augmented(images, generator)

    monkeypatch.setattr(MODULE, "augmented", noted)
    tuned(quantized("residual", "2bit"), 3)
    assert {*seen} == {(16, *SHAPE)}
    assert len(seen) > 3 + 12  # the checks are of each point on the line


def test_the_seed_chooses_the_crops() -> None:
    found = quantized("residual", "2bit")
    assert as_bytes(tuned(found, 3)) == as_bytes(tuned(found, 3))
    assert as_bytes(tuned(found, 3)) != as_bytes(tuned(found, 3, seed=1))


def test_values_too_large_for_half_precision() -> None:
    """Raw 16-bit images, say: held as infinite values they would make everything NaN."""
    found = quantized("flat", "4bit", 32)
    plan, batches = worked(found.plan, steps=2), [images(8, 1) * 1e5, images(8, 2)]
    layers = tune(found.network, found.record, plan, found.layers, batches)
    assert all(np.isfinite(layer.weight.scale).all() and np.isfinite(layer.bias).all() for layer in layers.values())


# --- killed and resumed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act_bits", [8, 32])
def test_resumed_with_the_same_bytes(act_bits: int, tmp_path: Path) -> None:
    """Killed at step 70, it goes on from the state of step 50; killed again at 80, from that one again."""
    found, path = quantized("residual", "2bit", act_bits), tmp_path / "net.unfinished"
    whole = tuned(found, 100)
    assert run(found, Checkpoint(path, "work"), 70)[0] == 1
    assert run(found, Checkpoint(path, "work"), 80)[0] == 51
    resumed = Checkpoint(path, "work")
    plan = worked(found.plan, steps=100)
    layers = tune(found.network, found.record, plan, found.layers, found.batches, checkpoint=resumed)
    assert as_bytes(layers) == as_bytes(whole) != as_bytes(found.layers)


def test_resumed_from_memory_more_than_once() -> None:
    found, checkpoint = quantized("flat", "2bit"), Checkpoint()
    whole = tuned(found, 100)
    assert run(found, checkpoint, 60)[0] == 1
    assert run(found, checkpoint, 90)[0] == 51
    plan = worked(found.plan, steps=100)
    layers = tune(found.network, found.record, plan, found.layers, found.batches, checkpoint=checkpoint)
    assert as_bytes(layers) == as_bytes(whole)


def test_killed_after_the_last_step() -> None:
    found, checkpoint = quantized("flat", "2bit"), Checkpoint()
    run(found, checkpoint, 100)
    heard, plan = Heard(), worked(found.plan, steps=100)
    layers = tune(found.network, found.record, plan, found.layers, found.batches, progress=heard, checkpoint=checkpoint)
    assert heard.steps == []
    assert as_bytes(layers) == as_bytes(tuned(found, 100))


def run(found: Quantized, checkpoint: Checkpoint, stop: int) -> list[int]:
    """Tune for 100 steps, interrupted at one of them; the steps that were reported."""
    plan, impatient = worked(found.plan, steps=100), Impatient(stop)
    with pytest.raises(KeyboardInterrupt):
        tune(found.network, found.record, plan, found.layers, found.batches, progress=impatient, checkpoint=checkpoint)
    return [done for _, done, _ in impatient.steps]


# --- refused --------------------------------------------------------------------------------------------------------


def test_refused() -> None:
    found, other = quantized("flat", "4bit"), quantized("fire", "4bit")
    plan = worked(found.plan, steps=1)
    with pytest.raises(ArtifactError, match=r"^left is no layer of this network; quantize this network$"):
        tune(found.network, found.record, plan, {"last": found.layers["last"]} | other.layers, found.batches)
    with pytest.raises(ArtifactError, match=r"^the record has no range for hidden\.reshape; calibrate this"):
        record = replace(found.record, activations={"input": found.record.activations["input"]})
        tune(found.network, record, worked(found.plan, steps=1), {"hidden": found.layers["hidden"]}, found.batches)
    with pytest.raises(DataError, match=r"^no calibration images; expected at least one$"):
        tune(found.network, found.record, worked(found.plan, steps=1), found.layers, [])
    with pytest.raises(DataError, match=r"^expected batches of images \[3, 16, 16\], found \[3, 8, 8\]$"):
        tune(found.network, found.record, plan, found.layers, [np.zeros((1, 3, 8, 8), np.float32)])
