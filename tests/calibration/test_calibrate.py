"""Calibration: what the record says of each layer, and that it depends on images and seed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import pytest
import torch
from nets import MODULES, SHAPE, Heard, float_network, images
from numpy.typing import NDArray
from torch import nn

from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.ranges import RangeChoice
from edgeq.calibration.sample import Sample
from edgeq.calibration.statistics import Statistics
from edgeq.errors import DataError, UnsupportedError, WeightsError
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.batches import Images
from edgeq.ir.network import Network
from edgeq.numerics.weights import BitWidth, starting_scales
from edgeq.planning.cost import file_bytes

BITS = (8, 4, 3, 2, 1.6, 1.33, 1)
every_network = pytest.mark.parametrize("name", MODULES)


def batches() -> Iterator[NDArray[np.float32]]:
    yield from (images(8, 1), images(5, 2))


@every_network
def test_a_record_has_every_layer_at_every_width(name: str) -> None:
    network = float_network(name)
    record = calibrate(network, batches())
    assert [info.name for info in record.layers] == [node.name for node in network.graph.layers]
    assert [info.position for info in record.layers] == list(range(len(record.layers)))
    for info in record.layers:
        weight = network.weight_and_bias(info.name)[0].numpy()
        assert info.shape == weight.shape
        assert tuple(info.sensitivity) == tuple(info.scales) == BITS
        for bits in BITS:
            np.testing.assert_array_equal(
                np.array(info.scales[bits], np.float32), starting_scales(weight, BitWidth(bits)), info.name
            )
        assert 0 < info.sensitivity[8] < info.sensitivity[4] < info.sensitivity[2] < float("inf")


@every_network
def test_the_size_of_files_is_known(name: str) -> None:
    record = calibrate(float_network(name), batches())
    packed = {bits: file_bytes(record, dict.fromkeys([i.name for i in record.layers], bits)) for bits in BITS}
    weights = sum(info.weights + 4 * info.channels for info in record.layers)
    assert packed[8] == weights + record.graph_bytes
    assert 1000 < record.graph_bytes < 6000
    assert 100 < record.packed_layer_bytes < 230
    assert 40 < record.cut_layer_bytes < 90


def test_kinds_of_layers() -> None:
    kinds = [info.kind for info in calibrate(float_network("residual"), batches()).layers]
    assert kinds == ["conv", "conv", "depthwise", "conv", "conv", "conv"]
    flat = calibrate(float_network("flat"), batches()).layers
    assert [(info.kind, info.shape, info.macs) for info in flat[1:]] == [
        ("conv", (10, 64, 1, 1), 640), ("conv", (5, 10, 1, 1), 50),
    ]  # fmt: skip


def test_a_record_depends_on_images_and_seed_alone() -> None:
    network = float_network("residual")
    first, again, other = (calibrate(network, batches(), seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert [info.sensitivity for info in first.layers] != [info.sensitivity for info in other.layers]


def test_the_size_of_batches_changes_nothing_that_is_measured() -> None:
    network = float_network("fire")
    together = np.concatenate(list(batches()))
    whole, single = (calibrate(network, [together[i : i + n] for i in range(0, 13, n)]) for n in (13, 1))
    assert [info.scales for info in whole.layers] == [info.scales for info in single.layers]
    for a, b in zip(whole.activations.values(), single.activations.values(), strict=True):
        assert a.scale == pytest.approx(b.scale, rel=0.02)


def test_progress_is_told_about_the_measurement() -> None:
    heard = Heard()
    calibrate(float_network("flat"), batches(), progress=heard)
    assert {work for work, _, _ in heard.steps} == {"measuring sensitivity"}
    then = [(done, total) for _, done, total in heard.steps]
    assert [done for done, _ in then] == sorted(done for done, _ in then)
    assert {total for _, total in then} == {then[-1][0]}


def test_no_images() -> None:
    with pytest.raises(DataError, match=r"^no calibration images; expected at least one$"):
        calibrate(float_network("flat"), [])


def test_nothing_to_quantize() -> None:
    network = trace(nn.Sequential(nn.ReLU(), nn.Flatten()), SHAPE)
    with pytest.raises(UnsupportedError, match=r"^the network has no convolution or linear layer; "):
        calibrate(network, batches())


# --- the sample ---------------------------------------------------------------------------------------------------


def test_a_sample_of_few_images_is_all_of_them() -> None:
    sample = Sample(20, [SHAPE], 0)
    for batch in batches():
        sample.add(Images((batch,)))
    np.testing.assert_array_equal(sample.images().arrays[0], np.concatenate(list(batches())))


def test_every_image_is_as_likely_in_a_sample() -> None:
    seen: Counter[int] = Counter()
    for seed in range(1000):
        sample = Sample(5, [(1,)], seed)
        for start in range(0, 20, 4):
            sample.add(Images((np.arange(start, start + 4, dtype=np.float32)[:, None],)))
        drawn = sample.images().arrays[0][:, 0].astype(int).tolist()
        assert len(set(drawn)) == 5
        seen.update(drawn)
    # 250 expected of each, standard deviation 14.
    assert set(seen) == set(range(20))
    assert all(190 < count < 310 for count in seen.values())


def large(change: Callable[[nn.Sequential], object]) -> Network:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3)
    )
    change(module)
    return trace(module, SHAPE)


def by(index: int, factor: float) -> Callable[[nn.Sequential], object]:
    return lambda module: cast(nn.Conv2d, module[index]).weight.data.mul_(factor)


def both(module: nn.Sequential) -> None:
    """Activations beyond float32 before a ReLU that hides half of them, of weights that are within."""
    for index in (0, 2, 5):
        by(index, 1e14)(module)


@pytest.mark.parametrize("observer", ["damage", "minmax", "percentile", "mse"])
@pytest.mark.parametrize(
    ("change", "scale", "error", "message"),
    [
        (by(2, 1e30), 1, WeightsError, r"layer 2: its weights reach .*e\+\d+, expected at most 1e\+15"),
        (
            both,
            1,
            UnsupportedError,
            r"layer 2: its output on a calibration image reaches .*, expected at most 1e\+15; look",
        ),
        (
            by(0, 1),
            1e20,
            DataError,
            r"a batch of images reaches .*e\+\d+, expected at most 1e\+15; are they normalized",
        ),
    ],
    ids=["weights", "activations", "images"],
)
def test_values_beyond_float32_are_named(
    change: Callable[[nn.Sequential], object], scale: float, error: type[Exception], message: str, observer: RangeChoice
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        calibrate(large(change), [images(4, 0) * np.float32(scale)], observer)


def test_a_layer_of_infinite_values_is_named_though_a_relu_hides_them() -> None:
    """The values before a ReLU have no quantizer, and so no histogram."""
    network = large(by(0, 1))
    network.layer("2").get_parameter("bias").fill_(-float("inf"))
    statistics = Statistics(network, 0)
    with pytest.raises(UnsupportedError, match=r"^layer 2: its output on a calibration image reaches inf, expected"):
        statistics.add(torch.from_numpy(images(2, 0)))


def test_gradients_beyond_float32_are_named() -> None:
    network = large(lambda module: [by(0, 1e-30)(module), by(2, 1e13)(module), by(5, 1e13)(module)])
    for node in network.graph.layers:
        network.layer(node.name).get_parameter("bias").zero_()
    with pytest.raises(
        UnsupportedError, match=r"^layer .*: how the answers depend on its .* is beyond float32; look at"
    ):
        calibrate(network, [images(4, 0)])


def test_tiny_values_are_calibrated() -> None:
    """Their squares are nothing in float32, so no covariance of them is positive definite."""
    network = large(lambda module: [by(i, f)(module) for i, f in ((0, 1e-20), (2, 1))])
    network.layer("0").get_parameter("bias").zero_()
    assert calibrate(network, [images(4, 0)]).layers[1].name == "2"
