from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import (
    MODULES,
    SHAPE,
    Heard,
    Impatient,
    Quantized,
    float_network,
    images,
    quantized,
    randomized,
    to_nearest,
    worked,
)  # fmt: skip
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeq.artifacts.checkpoint import Checkpoint
from edgeq.calibration.calibrate import calibrate
from edgeq.errors import ArtifactError, DataError
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.graph import INPUT
from edgeq.ir.network import Network, rounded_layer
from edgeq.ir.node import Node
from edgeq.numerics.weights import BitWidth, QuantLayer, packed_shape
from edgeq.packed.kernels import dequantize
from edgeq.packed.modules import PackedConv2d
from edgeq.packed.pack import pack
from edgeq.planning.plan import plan
from edgeq.planning.recipe import Recipe
from edgeq.quantization import quantize as rounding
from edgeq.quantization import sampling
from edgeq.quantization.quantize import quantize
from edgeq.quantization.streams import Stream
from edgeq.rounding import ridge
from edgeq.rounding.layer import quantize_layer
from edgeq.rounding.moments import by_group
from edgeq.rounding.ridge import Half
from edgeq.rounding.steps import Steps


@pytest.mark.parametrize("name", MODULES)
def test_bytes_scales_and_biases_are_what_files_hold(name: str) -> None:
    found = quantized(name, "adaptive")
    assert list(found.layers) == [node.name for node in found.network.graph.layers]
    for node in found.network.graph.layers:
        layer, bits = found.layers[node.name], found.plan.bits[node.name]
        width = BitWidth(bits)
        assert layer.weight.width == width
        assert layer.weight.shape == tuple(found.network.weight_and_bias(node.name)[0].shape)
        assert layer.weight.data.dtype == np.uint8
        assert layer.weight.data.shape == packed_shape(layer.weight.shape, width)
        assert layer.weight.levels().min() >= -width.highest
        assert (layer.weight.scale > 0).all()
        np.testing.assert_array_equal(layer.weight.scale, layer.weight.scale.astype(np.float16).astype(np.float32))
        step = layer.weight.scale.astype(np.float64) * found.record.activations[node.inputs[0]].scale
        np.testing.assert_array_equal(layer.bias, layer.bias.astype(np.float16).astype(np.float32))
        # A level of the grid in which kernels add biases, but for the rounding to half precision.
        off = np.abs(layer.bias - np.rint(layer.bias / step) * step)
        assert (off <= np.abs(layer.bias) * 2.0**-11 + 1e-7).all()


def test_biases_are_free_with_float_activations() -> None:
    found = quantized("residual", "4bit", 32)
    layer = found.layers["head.0"]
    step = layer.weight.scale * found.record.activations["add"].scale
    assert np.abs(layer.bias / step - np.rint(layer.bias / step)).max() > 0.05


def test_float_plan_quantizes_nothing() -> None:
    found = quantized("flat", "8bit")
    assert quantize(found.network, found.record, plan(found.record, "fp32"), found.batches) == {}


def sqnr(found: Network, network: Network) -> float:
    """Signal-to-quantization-noise ratio of the logits, in dB."""
    x = torch.from_numpy(images(64, 9))
    with torch.inference_mode():
        expected, noise = network(x), network(x) - found(x)
    return float(10 * torch.log10(expected.square().sum() / noise.square().sum()))


@pytest.mark.parametrize("name", MODULES)
def test_more_bits_come_closer(name: str) -> None:
    ratios = [sqnr(quantized(name, scheme, 32).packed, float_network(name)) for scheme in ("2bit", "4bit", "8bit")]
    assert ratios[0] + 6 < ratios[1]
    assert ratios[1] + 12 < ratios[2]
    assert ratios[2] > 35


@pytest.mark.parametrize("scheme", ["4bit", "3bit", "2bit", "1.6bit", "1bit"])
@pytest.mark.parametrize("name", ["residual", "fire"])
def test_better_than_rounding_to_the_nearest_vectors(name: str, scheme: str) -> None:
    found = quantized(name, scheme, 32)
    plain = {}
    for node in found.network.graph.layers:
        weight, bias = found.network.weight_and_bias(node.name)
        plain[node.name] = QuantLayer(to_nearest(weight, BitWidth(found.plan.bits[node.name])), bias.numpy())
    rounded = pack(found.network, plain, found.record, found.plan)
    assert sqnr(found.packed, found.network) > sqnr(rounded, found.network) + 1


def quantize_alone(
    module: nn.Module, batches: list[NDArray[np.float32]], scheme: str = "4bit"
) -> tuple[Network, Network]:
    """A network before and after all stages."""
    network = trace(module.eval(), SHAPE)
    record = calibrate(network, batches)
    chosen = plan(record, scheme)
    return network, pack(network, quantize(network, record, chosen, batches), record, chosen)


def test_a_channel_of_zeros_comes_to_nothing() -> None:
    """Its levels are those that its byte shares with other channels, but its scale is next to nothing."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    randomized(module)
    with torch.no_grad():
        module.get_parameter("0.weight")[1] = 0
    network, packed = quantize_alone(module, [images(16, 1)])
    layer = packed.layer("0")
    assert isinstance(layer, PackedConv2d)
    weight = dequantize(layer.packed, layer.scale, layer.shape, layer.bits)
    largest = weight.flatten(1).abs().amax(dim=1)
    assert (largest > 0.01).tolist() == [True, False, True, True]
    assert largest[1] < 2e-4  # 127 levels of 2^-20
    assert sqnr(packed, network) > 10


@pytest.mark.parametrize("value", [0.0, 1.0, 100.0, -3e4])
def test_constant_input(value: float) -> None:
    """Nothing varies, so the bias alone must make the output right, whatever the weights are rounded to."""
    module = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)))
    x = np.full((4, *SHAPE), value, np.float32)
    network, packed = quantize_alone(module, [x, x])
    with torch.inference_mode():
        expected, found = network(torch.from_numpy(x)), packed(torch.from_numpy(x))
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_refused() -> None:
    found, other = quantized("flat", "4bit"), quantized("fire", "4bit")
    with pytest.raises(
        ArtifactError, match=r"^the plan is of another network: its layers are not those of this one; plan"
    ):
        quantize(found.network, found.record, other.plan, found.batches)
    with pytest.raises(DataError, match=r"^no calibration images; expected at least one$"):
        quantize(found.network, found.record, found.plan, [])
    with pytest.raises(DataError, match=r"^expected batches of images \[3, 16, 16\], found \[3, 8, 8\]$"):
        quantize(found.network, found.record, found.plan, [np.zeros((1, 3, 8, 8), np.float32)])
    with pytest.raises(DataError, match=r"^a batch of images holds NaN or infinite values; expected finite ones$"):
        quantize(found.network, found.record, found.plan, [np.full((1, *SHAPE), np.nan, np.float32)])


def few_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that not all positions of the small maps are taken."""
    monkeypatch.setattr(sampling, "_MIN_SAMPLES", 256)


def test_seed_chooses_the_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = quantized("residual", "2bit")
    few_positions(monkeypatch)

    def rounded(seed: int) -> dict[str, tuple[bytes, bytes, bytes]]:
        return as_bytes(quantize(found.network, found.record, worked(found.plan, seed=seed, rows=1), found.batches))

    assert rounded(0) == rounded(0)
    assert rounded(0) != rounded(1)


def test_progress_counts_every_layer() -> None:
    found, heard = quantized("flat", "4bit"), Heard()
    quantize(found.network, found.record, found.plan, found.batches, progress=heard)
    assert heard.steps == [("quantizing to 4bit", done, 3) for done in (1, 2, 3)]


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("kept", [1, 3])
def test_resumed_after_some_layers(kept: int, views: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that were finished are taken as they are; of those to come each byte is the same."""
    found, path = quantized("residual", "2bit"), tmp_path / "net.unfinished"
    few_positions(monkeypatch)
    plan = worked(found.plan, views=views, rows=1)
    whole = quantize(found.network, found.record, plan, found.batches)
    names = [node.name for node in found.network.graph.layers]

    def run(progress: Heard) -> dict[str, QuantLayer]:
        checkpoint = Checkpoint(path, "work")
        return quantize(found.network, found.record, plan, found.batches, progress=progress, checkpoint=checkpoint)

    with pytest.raises(KeyboardInterrupt):
        run(Impatient(kept))
    computed, compute = list[str](), quantize_layer

    def counted(network: Network, node: Node, *args: Any) -> QuantLayer:
        computed.append(node.name)
        return compute(network, node, *args)

    monkeypatch.setattr(rounding, "quantize_layer", counted)
    heard = Heard()
    layers = run(heard)
    assert computed == names[kept:]
    assert list(layers) == names
    assert [done for _, done, _ in heard.steps] == [1 + i for i in range(len(names))]
    assert as_bytes(layers) == as_bytes(whole)


def as_bytes(layers: dict[str, QuantLayer]) -> dict[str, tuple[bytes, bytes, bytes]]:
    return {
        name: (layer.weight.data.tobytes(), layer.weight.scale.tobytes(), layer.bias.tobytes())
        for name, layer in layers.items()
    }


# --- views ----------------------------------------------------------------------------------------------------------


def inputs_of(
    found: Quantized, monkeypatch: pytest.MonkeyPatch, views: int, seed: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """What the float and the rounded network are run on."""
    seen: list[list[Tensor]] = []

    class Seen(Stream):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            seen.append([torch.cat([*self.parts(INPUT, i)]) for i in range(len(self.sizes))])

    with monkeypatch.context() as patch:
        patch.setattr(rounding, "Stream", Seen)
        quantize(found.network, found.record, worked(found.plan, seed=seed, views=views), found.batches)
    original, rounded = seen
    return original, rounded


def test_one_view_is_the_image_itself_if_it_is_too_small_for_a_blur(monkeypatch: pytest.MonkeyPatch) -> None:
    found = quantized("flat", "4bit", 32)
    for inputs in inputs_of(found, monkeypatch, 1):
        assert len(inputs) == len(found.batches)
        for x, batch in zip(inputs, found.batches, strict=True):
            assert torch.equal(x, torch.from_numpy(batch).half().float())


def test_whole_images_are_blurred_and_crops_augmented_by_seeds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    def noted(name: str) -> Callable[[Tensor, torch.Generator], Tensor]:
        def one(images: Tensor, generator: torch.Generator) -> Tensor:
            seen.append((name, generator.initial_seed()))
            return images.float() + len(seen)

        return one

    for name in ("blurred", "augmented"):
        monkeypatch.setattr(rounding, name, noted(name))
    found = quantized("flat", "4bit", 32)
    original, _ = inputs_of(found, monkeypatch, 2, seed=3)
    assert [name for name, _ in seen] == ["blurred", "blurred", "augmented", "augmented"]
    assert len({seed for _, seed in seen}) == 4
    for number, (x, batch) in enumerate(zip(original, 2 * found.batches, strict=True), 1):
        assert torch.equal(x, (torch.from_numpy(batch).half().float() + number).half().float())


def test_more_views_are_the_image_itself_and_crops_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = quantized("flat", "4bit", 32)
    original, rounded = inputs_of(found, monkeypatch, 3)
    assert all(torch.equal(x, y) for x, y in zip(original, rounded, strict=True))
    assert [x.shape for x in original] == [torch.Size((8, *SHAPE))] * 6
    assert all(torch.equal(x, y) for x, y in zip(original[:2], inputs_of(found, monkeypatch, 1)[0], strict=True))
    for i, crop in enumerate(original[2:], 2):
        others = torch.cat([*original[:i], *original[i + 1 :]])
        assert all(not torch.equal(image, other) for image in crop for other in others)
        # Of no other image: none of its values is beyond those of the image, but for the rounding.
        image = original[i % 2]
        assert (crop.amax(dim=(2, 3)) <= image.amax(dim=(2, 3)) + 1e-2).all()
        assert (crop.amin(dim=(2, 3)) >= image.amin(dim=(2, 3)) - 1e-2).all()


def test_crops_are_chosen_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = quantized("flat", "4bit", 32)
    first, again, other = (inputs_of(found, monkeypatch, 2, seed)[0] for seed in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(first[:2], other[:2], strict=True))
    assert all(not torch.equal(x, y) for x, y in zip(first[2:], other[2:], strict=True))


def test_each_batch_has_crops_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = quantized("flat", "4bit", 32)
    twice = replace(found, batches=[found.batches[0], found.batches[0]])
    first, second, crop, other = inputs_of(twice, monkeypatch, 2)[0]
    assert torch.equal(first, second)
    assert not torch.equal(crop, other)


def test_rounding_depends_on_views_and_seed_alone() -> None:
    found = quantized("residual", "2bit")

    def rounded(views: int, seed: int = 0) -> dict[str, tuple[bytes, bytes, bytes]]:
        plan = worked(found.plan, seed=seed, views=views)
        return as_bytes(quantize(found.network, found.record, plan, found.batches))

    assert rounded(1) == as_bytes(found.layers)
    assert rounded(2) == rounded(2)
    assert len({str(made) for made in (rounded(1), rounded(2), rounded(3), rounded(2, seed=1))}) == 4


# --- halves of the images -------------------------------------------------------------------------------------------


def rows_of_halves(
    found: Quantized, batches: Sequence[NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, views: int = 1
) -> dict[str, list[int]]:
    """How many patches each layer is rounded on, of either half of the images."""
    rows: dict[str, list[int]] = {}
    compute = quantize_layer

    def counted(network: Network, node: Node, halves: Any, *args: Any) -> QuantLayer:
        assert all(half.own.rows == half.target.rows for half in halves)
        rows[node.name] = [half.own.rows for half in halves]
        return compute(network, node, halves, *args)

    with monkeypatch.context() as patch:
        patch.setattr(rounding, "quantize_layer", counted)
        quantize(found.network, found.record, worked(found.plan, views=views, rows=1), batches)
    return rows


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("sizes", [[16], [8, 8], [5, 5, 6], [1] * 16], ids=str)
def test_every_second_image_is_of_the_other_half(sizes: list[int], views: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they come in batches: 8 images each, at all 16 positions of the convolution, and their crops."""
    starts = np.cumsum([0, *sizes])
    batches = [images(16, 1)[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    rows = rows_of_halves(quantized("flat", "4bit"), batches, monkeypatch, views)
    assert rows == {"conv": [8 * 16 * views] * 2, "hidden": [8 * views] * 2, "last": [8 * views] * 2}


def test_the_halves_are_of_the_same_images_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """All positions are taken, so only the order of sums is another."""
    found, everything = quantized("residual", "8bit"), images(16, 1)
    compute, seen = quantize_layer, list[list[Tensor]]()

    def noted(network: Network, node: Node, halves: Any, *args: Any) -> QuantLayer:
        if node.name == "stem.0":
            seen.append([part.covariance() for half in halves for part in (half.own, half.target)])
        return compute(network, node, halves, *args)

    monkeypatch.setattr(rounding, "quantize_layer", noted)
    for size in (16, 3, 1):
        quantize(found.network, found.record, found.plan, [everything[i : i + size] for i in range(0, 16, size)])
    for covariances in seen[1:]:
        torch.testing.assert_close(covariances, seen[0], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(seen[0][0], seen[0][2], rtol=1e-2)  # of the two halves


@pytest.mark.parametrize(
    ("count", "size", "views", "conv"),
    [(64, 8, 1, 256), (64, 1, 1, 256), (32, 8, 3, 256), (48, 1, 4, 256), (12, 8, 1, 192)],
    ids=str,
)
def test_layers_see_as_many_images_as_they_need(
    count: int, size: int, views: int, conv: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 patches are wanted of each layer; a linear layer has only one an image, so it sees all of them.

    The convolution has 16 positions, so 192 patches with 12 images; of more images or views not all are read.
    """
    few_positions(monkeypatch)
    batches = [images(count, 1)[i : i + size] for i in range(0, count, size)]
    rows = rows_of_halves(quantized("flat", "4bit"), batches, monkeypatch, views)
    assert conv <= sum(rows["conv"]) <= 1.1 * conv
    assert sum(rows["hidden"]) == sum(rows["last"]) == count * views
    assert all(0.9 < first / second < 1.1 for first, second in rows.values())


@pytest.mark.parametrize("seed", range(40))
def test_the_unit_of_what_a_layer_reads_does_not_matter(seed: int) -> None:
    """With channels that never vary and few images, some of these have eigenvalues that are hard to find."""
    generator = torch.Generator().manual_seed(seed)
    network = trace(nn.Sequential(nn.Conv2d(64, 4, 1)).eval(), (64, 4, 4))
    (node,) = network.graph.layers
    weight = by_group(network.weight_and_bias(node.name)[0], 1)
    read = torch.rand(1, 64, 16, generator=generator) * (torch.rand(1, 64, 1, generator=generator) > 0.45)

    def rounded(unit: float) -> NDArray[np.uint8]:
        halves = Half(), Half()
        for place, half in enumerate(halves):
            part = unit * read[:, :, place::2]
            half.own.add(part, part)
            half.target.add(weight @ part, part)
        return quantize_layer(network, node, halves, BitWidth(4), Steps(None, 0.01 * unit)).weight.data

    np.testing.assert_array_equal(rounded(2.0**-36), rounded(1.0))


@pytest.mark.parametrize("name", MODULES)
def test_a_single_image_is_enough(name: str) -> None:
    """Then one half is empty, and nothing can be left out to choose the ridge by."""
    network, one = float_network(name), [images(1, 1)]
    record = calibrate(network, one)
    chosen = plan(record, Recipe("8bit", 32))
    layers = quantize(network, record, chosen, one)
    assert sqnr(pack(network, layers, record, chosen), network) > 20


def test_a_single_image_takes_the_largest_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    found, one, ridges = quantized("residual", "2bit"), [images(1, 1)], ridge.RIDGES

    def rounded(*some: float) -> dict[str, tuple[bytes, bytes, bytes]]:
        monkeypatch.setattr(ridge, "RIDGES", some)
        return as_bytes(quantize(found.network, found.record, found.plan, one))

    assert rounded(*ridges) == rounded(ridges[-1]) != rounded(ridges[0])


def test_a_single_image_and_its_crops_are_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops of an image that is left out must not be seen either."""
    rows = rows_of_halves(quantized("flat", "4bit"), [images(1, 1)], monkeypatch, 3)
    assert rows == {"conv": [3 * 16, 0], "hidden": [3, 0], "last": [3, 0]}


# --- residual inputs ------------------------------------------------------------------------------------------------


class Sum(nn.Module):
    """A layer's output, and what another layer makes of it, added; nothing in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y: Tensor = x + self.second(x)
        return y


def with_wrong_layer(
    network: Network, wrong: str, factor: float, scheme: str, monkeypatch: pytest.MonkeyPatch, skips: bool
) -> dict[str, QuantLayer]:
    """Layers rounded one after another, of which one got scales that are too large by a factor."""
    batches = [images(8, 1), images(8, 2)]
    record = calibrate(network, batches)
    compute = quantize_layer

    def spoilt(network: Network, node: Node, *args: Any) -> QuantLayer:
        layer = compute(network, node, *args)
        scale = layer.weight.scale * np.float32(factor if node.name == wrong else 1)
        return QuantLayer(replace(layer.weight, scale=scale), layer.bias)

    with monkeypatch.context() as patch:
        patch.setattr(rounding, "quantize_layer", spoilt)
        if not skips:
            patch.setattr(sampling, "residual_inputs", lambda graph: {})
        return quantize(network, record, plan(record, Recipe(scheme, 32)), batches)


def error_of_sum(network: Network, layers: dict[str, QuantLayer]) -> float:
    """Share of the power of an addition's result that is wrong, on other images."""

    def value(layers: dict[str, QuantLayer]) -> Tensor:
        values = {INPUT: torch.from_numpy(images(64, 9))}
        for node in network.graph.nodes:
            inputs = [values[name] for name in node.inputs]
            made = rounded_layer(node, layers[node.name])(*inputs) if node.name in layers else network.run(node, inputs)
            values[node.name] = made
        return values["add"]

    with torch.inference_mode():
        expected, found = value({}), value(layers)
    return float((found - expected).square().mean() / expected.var(dim=(0, 2, 3), correction=0).mean())


def test_a_layer_makes_up_for_its_skip_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `a` the output of the first layer, `a + W a` is wanted. If `1.3 a` comes out, `V` of the second must give

    `1.3 a + 1.3 V a = a + W a`, so `V = (1 + W) / 1.3 - 1`; to make the most of its input alone, `V = W / 1.3`.
    """
    network = trace(randomized(Sum()), SHAPE)
    weight = network.weight_and_bias("second")[0].numpy()[:, :, 0, 0]
    for skips, expected in ((True, (np.eye(3) + weight) / 1.3 - np.eye(3)), (False, weight / 1.3)):
        layers = with_wrong_layer(network, "first", 1.3, "8bit", monkeypatch, skips)
        assert np.abs(layers["second"].weight.dequantize()[:, :, 0, 0] - expected).max() < 0.03
        assert (error_of_sum(network, layers) < 1e-4) == skips


@pytest.mark.parametrize("scheme", ["8bit", "4bit", "2bit"])
def test_a_linear_block_undoes_nearly_all_that_is_wrong(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = trace(randomized(Sum()), SHAPE)
    kept, left = (
        error_of_sum(network, with_wrong_layer(network, "first", 1.3, scheme, monkeypatch, skips))
        for skips in (True, False)
    )
    assert kept < left / 10


@pytest.mark.parametrize("factor", [0.8, 1.3])
@pytest.mark.parametrize("scheme", ["8bit", "4bit"])
def test_a_residual_block_undoes_some_of_it(scheme: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as what the last layer of the block reads tells what came in."""
    network = float_network("residual")
    kept, left = (
        error_of_sum(network, with_wrong_layer(network, "stem.0", factor, scheme, monkeypatch, skips))
        for skips in (True, False)
    )
    assert kept < 0.8 * left


def test_a_record_without_a_range_is_refused() -> None:
    found = quantized("flat", "4bit")
    record = replace(found.record, activations={})
    with pytest.raises(ArtifactError, match=r"^the record has no range for .*; calibrate this network again$"):
        quantize(found.network, record, found.plan, found.batches)
