"""Check that labels fit a network: it should do better than guessing, and better than with the other class order.

Wrong labels, a wrong preprocessing or untrained weights raise no error, but make an accuracy meaningless.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, fsum, lgamma, log
from typing import Final

from edgeq.data.images import ImageSet

_FEW: Final = 10  # on fewer images, any accuracy may be chance
_DOUBTFUL: Final = 0.01  # an accuracy is doubted if guessing reaches it with more than this probability
_CERTAIN: Final = 1e-4  # a class order is recommended if its lead is chance with less than this probability


def doubts(images: ImageSet, labels: Sequence[int], predictions: Sequence[int], classes: int) -> Iterator[str]:
    """Yield a line for each reason to doubt the accuracy of a float network.

    Args:
        images: the images that it was measured on.
        labels: class of each evaluated image, in order.
        predictions: the network's top-1 class of each evaluated image.
        classes: number of classes of the network.
    """
    pairs = list(zip(labels, predictions, strict=True))
    hits = sum(label == found for label, found in pairs)
    top1 = f"{images.name}: the float network's top-1 is {100 * hits / len(pairs):.2f} %"
    read = images.class_folders
    if read is not None and (other := read.other) is not None:
        better = sum(other[label] == found != label for label, found in pairs)
        worse = sum(other[label] != found == label for label, found in pairs)
        if tail(better, better + worse, 0.5) < _CERTAIN:
            there = f"{100 * (hits + better - worse) / len(pairs):.2f} %"
            name = "index" if read.order == "name" else "name"
            way_out = f"add --class-order {name}" if read.choosable else "name the folders by class index"
            how = "by the indices that are their names" if name == "index" else "in the order of their names as text"
            yield f"{top1}, and {there} with class folders numbered {how}; {way_out}"
    if classes > 1 and len(pairs) >= _FEW and tail(hits, len(pairs), 1 / classes) > _DOUBTFUL:
        yield (
            f"{top1}, not clearly better than guessing among {classes} classes; the usual causes are labels in another "
            "order than in training (--class-order), another preprocessing (--resize, --crop, --mean, --std of `edgeq "
            "calibrate`) and weights that are not trained (--weights)"
        )


def tail(hits: int, trials: int, chance: float) -> float:
    """Return the probability of at least that many hits: the upper tail of a binomial distribution, 0 < chance < 1."""
    if hits == 0:
        return 1.0
    ways = (lgamma(trials + 1) - lgamma(k + 1) - lgamma(trials - k + 1) for k in range(hits, trials + 1))
    return fsum(
        exp(way + k * log(chance) + (trials - k) * log(1 - chance))
        for k, way in zip(range(hits, trials + 1), ways, strict=True)
    )
