"""Calibration: what the record says of each layer, and that it depends on images and seed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from nets import MODULES, SHAPE, float_network, images
from numpy.typing import NDArray
from torch import nn

from edgeq.calibrate import Sample, calibrate
from edgeq.cost import file_bytes
from edgeq.errors import DataError, UnsupportedError
from edgeq.quantize import BitWidth, starting_scales
from edgeq.trace import trace

BITS = (8, 4, 3, 2)
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
        assert tuple(info.damage) == tuple(info.scales) == BITS
        for bits in BITS:
            np.testing.assert_array_equal(
                np.array(info.scales[bits], np.float32), starting_scales(weight, BitWidth(bits)), info.name
            )
        assert 0 < info.damage[8] < info.damage[4] < info.damage[2] < float("inf")


@every_network
def test_the_size_of_files_is_known(name: str) -> None:
    record = calibrate(float_network(name), batches())
    packed = {bits: file_bytes(record, dict.fromkeys([i.name for i in record.layers], bits)) for bits in BITS}
    weights = sum(info.weights + 4 * info.channels for info in record.layers)
    assert packed[8] == weights + record.graph_bytes
    assert 1000 < record.graph_bytes < 6000
    assert 120 < record.packed_layer_bytes < 220


def test_kinds_of_layers() -> None:
    kinds = [info.kind for info in calibrate(float_network("residual"), batches()).layers]
    assert kinds == ["conv", "conv", "depthwise", "conv", "conv", "conv"]
    assert [info.kind for info in calibrate(float_network("flat"), batches()).layers] == ["conv", "linear", "linear"]


def test_a_record_depends_on_images_and_seed_alone() -> None:
    network = float_network("residual")
    first, again, other = (calibrate(network, batches(), seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert [info.damage for info in first.layers] != [info.damage for info in other.layers]


def test_the_size_of_batches_changes_nothing_that_is_measured() -> None:
    network = float_network("fire")
    together = np.concatenate(list(batches()))
    whole, single = (calibrate(network, [together[i : i + n] for i in range(0, 13, n)]) for n in (13, 1))
    assert [info.scales for info in whole.layers] == [info.scales for info in single.layers]
    for a, b in zip(whole.activations.values(), single.activations.values(), strict=True):
        assert a.scale == pytest.approx(b.scale, rel=0.02)


def test_progress_is_told_twice() -> None:
    first: list[int] = []
    then: list[tuple[int, int]] = []
    calibrate(float_network("flat"), batches(), progress=first.append, measuring=lambda *steps: then.append(steps))
    assert first == [8, 5]
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
    sample = Sample(20, SHAPE, 0)
    for batch in batches():
        sample.add(batch)
    np.testing.assert_array_equal(sample.images(), np.concatenate(list(batches())))


def test_every_image_is_as_likely_in_a_sample() -> None:
    seen: Counter[int] = Counter()
    for seed in range(1000):
        sample = Sample(5, (1,), seed)
        for start in range(0, 20, 4):
            sample.add(np.arange(start, start + 4, dtype=np.float32)[:, None])
        drawn = sample.images()[:, 0].astype(int).tolist()
        assert len(set(drawn)) == 5
        seen.update(drawn)
    # 250 expected of each, standard deviation 14.
    assert set(seen) == set(range(20))
    assert all(190 < count < 310 for count in seen.values())
