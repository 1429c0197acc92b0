"""The look at calibration images, by a network whose batch norms have seen images prepared for ImageNet."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import Calling
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeq
from edgeq.calibration.preflight import preflight
from edgeq.calibration.trained import Seen, distance
from edgeq.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from edgeq.errors import DataError
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Moments, Network

SIZE, CLASSES = 24, 12
RIGHT = Preprocess(SIZE, SIZE, IMAGENET_MEAN, IMAGENET_STD)
PLAIN = replace(RIGHT, mean=(0, 0, 0), std=(1, 1, 1))
LEVELS = replace(PLAIN, std=(1 / 255, 1 / 255, 1 / 255))
IN_FLAGS = "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"


def pixels(count: int, seed: int = 1) -> NDArray[np.float32]:
    """Blurred spots, each image of its own shade of red on blue, float32 `[count, 3, SIZE, SIZE]` in 0..1."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 1, (count, 3, 6, 6)).astype(np.float32))
    spots = nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear").numpy()
    shade = rng.uniform(0.2, 0.6, (count, 1, 1, 1)).astype(np.float32)
    return (0.6 * spots + shade * np.array([0.7, 0.4, 0.1], np.float32)[:, None, None]).clip(0, 1)


def prepared(pictures: NDArray[np.float32], as_by: Preprocess = RIGHT) -> NDArray[np.float32]:
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (as_by.mean, as_by.std))
    return (pictures[:, as_by.order] - mean) / std


class Trained(nn.Module):
    """Two layers with batch norms that have seen images, and features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8, momentum=None), nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16, momentum=None), nn.ReLU(),
        )  # fmt: skip
        for part in self.layers:
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 2)
                nn.init.normal_(part.bias)
        with torch.no_grad():
            self.layers(torch.from_numpy(prepared(pixels(256, seed=0))))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class Classifier(nn.Module):
    """Class 3 for much red, class 7 for little; unsure where red is far from what it usually is."""

    def __init__(self) -> None:
        super().__init__()
        self.usual = float(np.median(prepared(pixels(256, seed=0))[:, 0].mean((1, 2))))
        self.redness, self.last = nn.Conv2d(3, 1, 1), nn.Linear(1, CLASSES)
        with torch.no_grad():
            self.redness.weight[:] = torch.tensor([1.0, 0, 0])[None, :, None, None]
            self.redness.bias = nn.Parameter(torch.tensor([-self.usual]))
            self.last.weight.zero_()
            self.last.bias.zero_()
            self.last.weight[3], self.last.weight[7] = 500, -500

    def forward(self, x: Tensor) -> Tensor:
        red = self.redness(x).mean([2, 3])
        y: Tensor = self.last(red * (0.7 - red.abs()).relu())
        return y


@pytest.fixture(scope="module")
def network() -> Network:
    return trace(Trained(), (3, SIZE, SIZE))


@pytest.fixture(scope="module")
def classifier() -> Network:
    return trace(Classifier(), (3, SIZE, SIZE))


def looked(network: Network, pictures: NDArray[np.float32], as_by: Preprocess = RIGHT) -> tuple[str, ...]:
    return preflight(network, [prepared(pictures, as_by)], as_by)


# --- what batch norms say -------------------------------------------------------------------------------------------


def norm(channels: int, seed: int = 0) -> nn.BatchNorm2d:
    torch.manual_seed(seed)
    made = nn.BatchNorm2d(channels, eps=0.1)
    assert made.running_mean is not None
    assert made.running_var is not None
    for part in made.weight, made.bias, made.running_mean:
        nn.init.normal_(part)
    nn.init.uniform_(made.running_var, 0.01, 2)
    return made


def said(made: nn.BatchNorm2d) -> Moments:
    assert made.running_var is not None
    return Moments(
        made.bias.detach(), (made.weight.abs() * (made.running_var / (made.running_var + 0.1)).sqrt()).detach()
    )


def test_a_layer_keeps_what_the_batch_norm_behind_it_says() -> None:
    last = norm(5)
    network = trace(nn.Sequential(nn.Conv2d(3, 5, 3), last, nn.ReLU(), nn.Conv2d(5, 2, 1)), (3, 8, 8))
    assert list(network.trained) == ["0"]
    torch.testing.assert_close(network.with_graph(network.graph).trained["0"], said(last))


def test_of_two_batch_norms_the_second_counts() -> None:
    first, second = norm(5), norm(5, seed=1)
    network = trace(nn.Sequential(nn.Conv2d(3, 5, 3), first, second, nn.ReLU()), (3, 8, 8))
    torch.testing.assert_close(network.trained["0"], said(second))


def test_a_batch_norm_before_its_layer_keeps_its_own_value() -> None:
    first = norm(5)
    network = trace(nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), first, nn.ReLU(), nn.Conv2d(5, 2, 1)), (3, 8, 8))
    assert list(network.trained) == ["2"]
    torch.testing.assert_close(network.trained["2"], said(first))


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)),
        nn.Sequential(nn.Conv2d(3, 5, 3), norm(5), Calling(lambda x: 3 * x + 1), nn.ReLU()),
        nn.Sequential(norm(3), nn.Conv2d(3, 5, 3)),
    ],
    ids=["untrained or folded before", "value changed behind it", "became part of the layer behind"],
)
def test_nothing_is_kept_of(module: nn.Module) -> None:
    assert trace(module, (3, 8, 8)).trained == {}


def test_distance_by_hand() -> None:
    # Variance 4 and mean 1 where training had 1 and 0: KL is (4 + 1 - 1 - log 4) / 2; the second channel is alike.
    found = Moments(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 3.0]))
    trained = Moments(torch.tensor([0.0, 5.0]), torch.tensor([1.0, 3.0]))
    assert distance(found, trained) == pytest.approx(math.log1p((4 - math.log(4)) / 2) / 2)


def test_channels_that_are_constant_in_training_do_not_count() -> None:
    trained = Moments(torch.zeros(3), torch.tensor([1.0, 1.0, 1e-6]))
    assert distance(Moments(torch.zeros(3), torch.ones(3)), trained) == 0
    assert distance(Moments(torch.zeros(3), torch.zeros(3)), Moments(torch.zeros(3), torch.zeros(3))) == 0


def test_moments_are_those_of_all_pixels_of_all_images() -> None:
    values, seen = torch.randn(7, 4, 5, 6) * torch.arange(1, 8)[:, None, None, None], Seen()
    for one in values:
        seen.add(one[None])
    torch.testing.assert_close(seen.moments.mean.float(), values.mean([0, 2, 3]))
    torch.testing.assert_close(seen.moments.std.float(), values.std([0, 2, 3], correction=0))


# --- doubts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [16, 32, 64, 200])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_good_images_raise_no_doubt(count: int, seed: int, network: Network, classifier: Network) -> None:
    for one in network, classifier:
        assert looked(one, pixels(count, seed)) == ()
        assert preflight(one, [prepared(pixels(count, seed))]) == ()


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (LEVELS, r"\S+ to 2\d\d"),
        (PLAIN, r"0\S+ to \S+"),
        (replace(RIGHT, mean=(0.5,) * 3, std=(0.5,) * 3), r"-\S+ to \S+"),
    ],
    ids=["0..255", "0..1", "-1..1"],
)
def test_values_of_another_range(given: Preprocess, values: str, network: Network) -> None:
    for found in looked(network, pixels(32), given), preflight(network, [prepared(pixels(32), given)]):
        (line,) = found
        assert re.fullmatch(
            rf"the values of the images, {values}, are not those that the network was trained on \(distance \d+\.\d\d\)"
            rf"; normalized to ImageNet's mean and deviation they are \(distance 0\.0\d\): {IN_FLAGS}",
            line,
        )


def test_flags_are_in_the_order_of_the_channels(network: Network) -> None:
    other = trace(nn.Sequential(Calling(lambda x: x[:, [2, 1, 0]]), Trained()), (3, SIZE, SIZE))
    (line,) = looked(other, pixels(32), replace(LEVELS, channel_order="bgr"))
    assert line.endswith("--mean 0.406,0.456,0.485 --std 0.225,0.224,0.229")


def test_values_that_the_preprocessing_cannot_make(network: Network) -> None:
    (line,) = preflight(network, [prepared(pixels(32), LEVELS)], RIGHT)
    assert line.endswith("; pass images that were prepared so")
    assert "cannot be those of pixels with resize 24, crop 24, mean 0.485,0.456,0.406" in line


def test_exchanged_channels_by_the_answers(classifier: Network) -> None:
    (line,) = looked(classifier, pixels(64), replace(RIGHT, channel_order="bgr"))
    assert line.startswith("the network is surer of its answers with red and blue exchanged (entropy ")
    assert line.endswith(" nats lower): --channel-order rgb")
    (line,) = looked(classifier, pixels(64)[:, ::-1])
    assert line.endswith(": --channel-order bgr")
    (line,) = preflight(classifier, [prepared(pixels(64)[:, ::-1])])
    assert line.endswith(": exchange the first and last channel")


def test_exchanged_channels_by_the_batch_norms(network: Network) -> None:
    (line,) = looked(network, pixels(64), replace(RIGHT, channel_order="bgr"))
    assert re.search(r"; with red and blue exchanged they are \(distance 0\.0\d\): --channel-order rgb$", line)


def test_another_kind_of_images(network: Network) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (32, 3, SIZE, SIZE)).astype(np.float32)
    (line,) = looked(network, noise)
    assert line.startswith("inside the network, the images give values far from those of its training (distance ")


@pytest.mark.parametrize(("count", "words"), [(1, "1 image is few"), (15, "15 images are few")])
def test_few(count: int, words: str, network: Network) -> None:
    line = f"{words} to calibrate on; take at least 16, better some hundred, like those in use"
    assert looked(network, pixels(count)) == (line,)


def test_copies(network: Network) -> None:
    rng = np.random.default_rng(0)
    some = np.repeat(pixels(16), 2, 0)
    noisy = some + rng.normal(0, 0.01, some.shape).astype(np.float32)
    line = "16 of 32 images are copies of others, or nearly; take different images, as many as are to be calibrated on"
    assert looked(network, some) == (line,)
    assert looked(network, noisy.clip(0, 1)) == (line,)
    assert looked(network, some[10:]) == (line.replace("16 of 32", "11 of 22"),)
    assert looked(network, np.concatenate([pixels(24), pixels(24)[:8]])) == ()  # a quarter


def test_blank(network: Network) -> None:
    some = pixels(32)
    some[:9] = some[:9].mean()
    assert "9 of 32 images have one value everywhere; take images with something on them" in looked(network, some)


def red(count: int) -> NDArray[np.float32]:
    more = prepared(pixels(200))[:, 0].mean((1, 2)) - Classifier().usual
    return np.compress((more > 0.1) & (more < 0.6), pixels(200), 0)[:count]


def test_one_class(classifier: Network) -> None:
    assert looked(classifier, red(40)) == (
        "the network takes 40 of 40 images for the same class, 3; take images of everything that it will see",
    )


@pytest.mark.parametrize(
    "last",
    [lambda x: x.sigmoid(), lambda x: x[:, :9], lambda x: x.reshape(-1, 3, 4)],
    ids=["of many classes at once", "of few classes", "no classifier"],
)
def test_one_class_is_no_doubt_where_it_may_be_right(last: Callable[[Tensor], Tensor]) -> None:
    found = trace(nn.Sequential(Classifier(), Calling(last)), (3, SIZE, SIZE))
    assert looked(found, red(40)) == ()


def test_other_inputs() -> None:
    """Without batch norms, classes or colours, only the images themselves count."""
    flat = trace(nn.Linear(6, 4), (6,), tasks="regression")
    rng = np.random.default_rng(0)
    assert preflight(flat, [1000 * rng.standard_normal((32, 6)).astype(np.float32)]) == ()
    grey = trace(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), (1, SIZE, SIZE))
    assert preflight(grey, [255 * pixels(32)[:, :1]]) == ()
    assert len(preflight(grey, [255 * pixels(3)[:, :1]])) == 1


def test_grey_images_of_another_range() -> None:
    norm = nn.BatchNorm2d(4, momentum=None)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU()).train()
    with torch.no_grad():
        module(torch.from_numpy(pixels(64)[:, :1]))
    (line,) = preflight(trace(module.eval(), (1, SIZE, SIZE)), [255 * pixels(32)[:, :1]])
    assert line.endswith("normalized to 0..1 they are (distance 0.00): --mean 0 --std 1")


def test_bad_images(network: Network) -> None:
    assert edgeq.preflight is preflight
    with pytest.raises(DataError, match=r"^no calibration images; expected at least one$"):
        preflight(network, [])
    with pytest.raises(DataError, match=r"^expected batches of images \[3, 24, 24\], found \[3, 8, 8\]$"):
        preflight(network, [np.zeros((1, 3, 8, 8), np.float32)])
    with pytest.raises(DataError, match="NaN or infinite"):
        preflight(network, [np.full((1, 3, SIZE, SIZE), np.nan, np.float32)])
