"""Whether labels fit a network: whether its answers are better than guesses, and better than in another class order.

Wrong labels, another preprocessing or untrained weights make no error: they make a number that means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, fsum, lgamma, log
from typing import Final

from edgeq.data.images import ImageSet

_FEW: Final = 10  # images on which any number may be chance
_DOUBTFUL: Final = 0.01  # how likely guesses are as good as an accuracy that is doubted
_CERTAIN: Final = 1e-4  # how likely two readings of equal worth are as far apart as those of which one is recommended


def doubts(images: ImageSet, labels: Sequence[int], predictions: Sequence[int], classes: int) -> Iterator[str]:
    """Say in a line each what makes the accuracy of a float network doubtful.

    Args:
        images: what it was measured on.
        labels: of those that were evaluated, in order.
        predictions: its top-1 class of the same.
        classes: of the network.
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
    """The probability of at least as many hits: the upper tail of a binomial distribution, for 0 < chance < 1."""
    if hits == 0:
        return 1.0
    ways = (lgamma(trials + 1) - lgamma(k + 1) - lgamma(trials - k + 1) for k in range(hits, trials + 1))
    return fsum(
        exp(way + k * log(chance) + (trials - k) * log(1 - chance))
        for k, way in zip(range(hits, trials + 1), ways, strict=True)
    )
