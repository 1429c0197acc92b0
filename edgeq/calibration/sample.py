"""The images that calibration runs again: a random sample of all it has seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeq.ir.batches import Images
from edgeq.system.distributed import ALONE, Workers


class Sample:
    """A uniform random sample of a stream of images (Vitter's algorithm R, doi:10.1145/3147.3165).

    Args:
        size: size of the sample.
        shapes: shapes of the inputs for one image.
        seed: seed of the choice.
        workers: the processes of a distributed run, which sample from all their images together.
    """

    def __init__(self, size: int, shapes: Sequence[tuple[int, ...]], seed: int, workers: Workers = ALONE) -> None:
        self.seen = 0
        self._kept: dict[int, Images] = {}  # images of this process, by index in the sample
        self._size, self._shapes, self._workers = size, shapes, workers
        self._generator = np.random.default_rng(seed)

    def add(self, images: Images | None, counts: Sequence[int] | None = None) -> None:
        """Offer a round of images to the sample.

        Args:
            images: those of this process, or None.
            counts: number of images in this round of every process; None if there is only one process.
        """
        for rank, count in enumerate([len(images)] if counts is None and images is not None else counts or ()):
            for i in range(count):
                place = self.seen if self.seen < self._size else int(self._generator.integers(self.seen + 1))
                self.seen += 1
                if place < self._size:
                    self._kept.pop(place, None)
                    if rank == self._workers.rank and images is not None:
                        self._kept[place] = images[i : i + 1].copied()

    def images(self) -> Images:
        """Return the sample on rank 0: all images seen, or `size` of them. Collective."""
        found = {place: image for part in self._workers.gather(0, self._kept) for place, image in part.items()}
        empty = Images(tuple(np.empty((0, *shape), np.float32) for shape in self._shapes))
        return Images.joined([empty, *(found[place] for place in sorted(found))])
