"""A look at calibration images before the long pass: are they what the network was trained on, and enough of them?

Images that are prepared in another way than those of the training raise no error, and calibration then measures a
network that nobody will run. What gives them away:

- the batch norms of the network, which say what mean and variance every channel has had in training; the distance is
  the Kullback-Leibler divergence of two normal distributions. Other usual normalizations of the same pixels are tried;
- for a classifier, its answers: with red and blue exchanged it is less sure of natural images;
- the images themselves: few, blank or copies of each other.

The limits come from photographs and rendered characters (`benchmarks/preflight.py`). They are chosen so that good
images, sixteen or more, raise no warning; so what is only a little wrong raises none, either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import fsum
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeq.calibration.preparation import Preparation, preparation
from edgeq.calibration.sample import Sample
from edgeq.calibration.trained import Seen, distance
from edgeq.data.preprocess import Preprocess
from edgeq.errors import DataError
from edgeq.ir.batches import Batch, Images
from edgeq.ir.network import Network
from edgeq.tasks.classification import Classification, entropy

LOOKS: Final = 64
"""Number of images that are looked at."""

_FEW: Final = 16  # images; the distances of fewer say nothing
_MOST_COPIES: Final = 0.25  # of the images
_MOST_BLANK: Final = 0.25
_ALIKE: Final = 0.1  # times the spread within images, by which copies differ
_THUMBNAIL: Final = 32  # pixels a side, on which copies are looked for
_LAYERS: Final = 10  # whose values are compared with the training's
_FAR: Final = 0.2  # mean distance of these layers; of good images up to 0.12
_NEAR: Final = 0.15  # distance of the first of them, of images that fit
_BETTER: Final = 3.0  # times nearer is what fits far better
_SURELY: Final = 4.0  # standard errors: by chance once in 30,000 times
_CLASSES: Final = 10  # a network of fewer may rightly see one class only
_CONFIDENT: Final = 0.5  # a class score that counts as an answer
_SAME: Final = 0.9  # of the images


def preflight(network: Network, batches: Iterable[Batch], preprocess: Preprocess | None = None) -> tuple[str, ...]:
    """Look at calibration images, and say what is doubtful about them.

    Args:
        network: the float network, from `edgeq.trace`; it runs on the device that it is on.
        batches: as for `edgeq.calibrate`; all are read, and at most `LOOKS` images of them, drawn at random, looked at.
        preprocess: how the images were prepared; None to guess it from their values.

    Returns:
        A line for each doubt, with the way out; nothing if all seems well. Flags are those of `edgeq calibrate`, and
        fields of `edgeq.Preprocess`.

    Raises:
        DataError: no images, images of another shape, or values that are not finite.

    Example:
        >>> edgeq.preflight(network, [batches[0][:8]])
        ('8 images are few to calibrate on; take at least 16, better some hundred, like those in use',)
    """
    sample = Sample(LOOKS, [one.shape for one in network.graph.inputs], seed=0)
    for batch in batches:
        sample.add(Images.of(network.graph, batch))
    if not sample.seen:
        raise DataError("no calibration images; expected at least one")
    with torch.inference_mode():
        return tuple(_doubts(network, sample.images(), preprocess))


def _doubts(network: Network, images: Images, preprocess: Preprocess | None) -> Iterator[str]:
    yield from _of_the_images(images)
    layers, classes = list(network.trained)[:_LAYERS], _classes(network)
    seen = _run(network, images, [*layers, *classes])
    pixels = preparation(network.graph, images, preprocess)
    distances = [distance(seen[name].moments, network.trained[name]) for name in layers]
    values = f"the values of the images, {images.arrays[0].min():.3g} to {images.arrays[0].max():.3g},"
    if preprocess and pixels and not pixels.possible:
        yield f"{values} cannot be those of pixels with {preprocess}; pass images that were prepared so"
        return
    if layers and pixels and distances[0] > _NEAR and (better := _better(network, pixels, layers[0], distances[0])):
        yield f"{values} are {better}"
        return
    if len(images) < _FEW:
        return
    if layers and (mean := fsum(distances) / len(distances)) > _FAR:
        yield (
            f"inside the network, the images give values far from those of its training (distance {mean:.2f}, expected "
            f"at most {_FAR:g}); check that they are of the kind that it was trained on, and prepared as then"
        )
    for name in classes:
        yield from _of_the_answers(network, pixels, name, seen[name].scores)


def _of_the_images(images: Images) -> Iterator[str]:
    count = len(images)
    if count < _FEW:
        yield (
            f"{count} image{'s are' if count > 1 else ' is'} few to calibrate on; take at least {_FEW}, better some "
            "hundred, like those in use"
        )
    maps = [array for array in images.arrays if array.ndim == 4]
    blank = int(np.all([np.ptp(array, (2, 3)).max(1) == 0 for array in maps], 0).sum()) if maps else 0
    if blank > _MOST_BLANK * count:
        yield f"{blank} of {count} images have one value everywhere; take images with something on them"
    elif (copies := _copies(images)) > _MOST_COPIES * count:
        yield (
            f"{copies} of {count} images are copies of others, or nearly; take different images, as many as are to be "
            "calibrated on"
        )


def _copies(images: Images) -> int:
    """The number of images that differ from an earlier one by less than a tenth of the spread within images."""
    thumbnails = np.concatenate([_thumbnails(array) for array in images.arrays], 1)
    within = float(np.sqrt(thumbnails.var(1).mean()))
    different: list[NDArray[np.float64]] = []
    for one in thumbnails:
        if all(np.sqrt(np.square(one - other).mean()) > _ALIKE * within for other in different):
            different.append(one)
    return len(thumbnails) - len(different)


def _thumbnails(array: NDArray[np.float32]) -> NDArray[np.float64]:
    """Smaller maps, or other values as they are, `[n, values]`."""
    if array.ndim == 4:
        rows, columns = (min(side, _THUMBNAIL) for side in array.shape[2:])
        array = nn.functional.adaptive_avg_pool2d(torch.from_numpy(array), (rows, columns)).numpy()
    return array.reshape(len(array), -1).astype(np.float64)


def _run(network: Network, images: Images, wanted: Sequence[str]) -> dict[str, Seen]:
    seen = {name: Seen() for name in wanted}
    for image in images if wanted else ():
        for name, value in network.values(image.tensors(network), wanted).items():
            seen[name].add(value)
    return seen


def _classes(network: Network) -> list[str]:
    """The scores of a classifier that gives each image one class; nothing for other networks."""
    graph, (output, *others) = network.graph, network.graph.outputs
    shape, end = graph.shapes()[graph.answers[0]], graph.ending(output.value)
    of_many = output.task == "classification" and not others and len(shape) == 1 and shape[0] > 1
    return [graph.answers[0]] if of_many and (end is None or end.op != "sigmoid") else []


def _better(network: Network, pixels: Preparation, layer: str, given: float) -> str:
    """Say how else the same pixels may be prepared to fit a layer far better; nothing if there is no such way."""
    for ways in ([*pixels.others()], [pixels.swapped]):
        found = {}
        for way in filter(None, ways):
            found[distance(_run(network, way.images(), [layer])[layer].moments, network.trained[layer])] = way
        if found and (least := min(found)) < min(_NEAR, given / _BETTER):
            return (
                f"not those that the network was trained on (distance {given:.2f}); {found[least].name} they are "
                f"(distance {least:.2f}): {found[least].flags}"
            )
    return ""


def _of_the_answers(network: Network, pixels: Preparation | None, name: str, scores: Tensor) -> Iterator[str]:
    count, classes = scores.shape
    highest, answers = Classification().trust(scores).max(1)
    for most, times in Counter(answers[highest > _CONFIDENT].tolist()).most_common(1):
        if classes >= _CLASSES and times >= _SAME * count:
            yield (
                f"the network takes {times} of {count} images for the same class, {most}; take images of everything "
                "that it will see"
            )
    if pixels and pixels.swapped:
        lead = entropy(scores) - entropy(_run(network, pixels.swapped.images(), [name])[name].scores)
        if float(lead.mean()) > _SURELY * float(lead.std()) / count**0.5:
            yield (
                f"the network is surer of its answers with red and blue exchanged (entropy {float(lead.mean()):.2f} "
                f"nats lower): {pixels.swapped.flags}"
            )
