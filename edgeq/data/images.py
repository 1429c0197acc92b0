"""Reproducible, ordered sets of images: rendered by edgeq or found in folders, decoded into batches.

A folder may instead hold arrays, which are what a network takes: for networks with several inputs, and for images that
are prepared in a way of their own. Folders may have any layout, any colour modes and a few broken files. A few threads
decode images a little ahead of the consumer, so memory does not grow with the number of images.
"""

from __future__ import annotations

import operator
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edgeq.artifacts.files import sha256
from edgeq.data import glyphs
from edgeq.data.array_files import read_arrays
from edgeq.data.class_folders import ClassFolders, ClassOrder, class_folders
from edgeq.data.image_files import Kind, find_images, find_samples, formats
from edgeq.data.preprocess import Preprocess, check_size
from edgeq.errors import ArtifactError, DataError, UnsupportedError, one_line
from edgeq.system.cpus import thread_count
from edgeq.system.distributed import ALONE, Workers

_UNREADABLE_PERCENT: Final = 1
_MOST_THREADS: Final = 4
_DIGEST_DIGITS: Final = 16
_NO_FILE: Final = "no file, but a folder, pipe or device"

T = TypeVar("T")

Inputs = NDArray[np.float32] | Mapping[str, NDArray[np.float32]]
"""What a network takes for some samples: float32 `[n, *shape]`; if it has several inputs, one array each by name."""


class Batch(NamedTuple):
    """A batch: `images` float32 `[n, 3, rows, columns]`; `labels` int64 `[n]`, or None without labels.

    `indices` are those of the images in their set, in order.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    indices: tuple[int, ...]


class Unreadable(NamedTuple):
    """An image, or a file of arrays, that was skipped: its path in the folder, and the reason."""

    path: str
    reason: str


class ImageSet(ABC):
    """A reproducible, ordered set of images; make one with `embedded`, `folder` or `labelled`.

    Attributes:
        name: name of the set in messages.
        labels: class index of every image, or None without labels.
        notices: lines for the user: which files of a folder were left out, and how its class folders were read.
        class_folders: the class folders that the labels come from, or None.
        unreadable: the images that the latest pass of `batches` or `inputs` has skipped so far.
        kind: `images`, which a preprocessing makes a network's input, or `arrays`, which are one already.
    """

    kind: ClassVar[Kind] = "images"

    def __init__(
        self,
        name: str,
        labels: Sequence[int] | None,
        notices: Sequence[str] = (),
        class_folders: ClassFolders | None = None,
    ) -> None:
        self.name = name
        self.labels = labels
        self.notices = tuple(notices)
        self.class_folders = class_folders
        self.unreadable: list[Unreadable] = []

    @staticmethod
    def embedded(split: glyphs.Split, samples: int) -> ImageSet:
        """The first images of a split of the embedded, labelled data set.

        Args:
            split: `train`, `calib` or `test`; no image is in two of them.
            samples: number of images; image `i` is of class `i` modulo the number of classes.

        Raises:
            DataError: samples < 1, or an unknown split.

        Example:
            >>> images = edgeq.ImageSet.embedded("calib", 4)
            >>> len(images), images.labels
            (4, [0, 1, 2, 3])
        """
        return _Embedded(split, samples)

    @staticmethod
    def folder(root: Path, samples: int | None, seed: int) -> ImageSet:
        """Unlabelled images from a folder of any layout, or arrays that are what a network takes.

        Each `.npy` file holds the input of a network for one sample, each `.npz` file all inputs by their names. Such a
        set has no `batches`, but `inputs`.

        Args:
            root: the folder, which is searched recursively.
            samples: number of images or arrays to draw at random; all if it is None or larger than their number.
            seed: seed of the draw.

        Raises:
            DataError: samples < 1, or `root` is missing, not a folder, cannot be listed, holds neither images nor
                arrays, or both.
        """
        if samples is not None:
            _check_samples(samples)
        found = find_samples(root)
        paths = found.paths
        if samples is not None and samples < len(paths):
            chosen = np.random.default_rng(seed).choice(len(paths), samples, replace=False)
            paths = [paths[index] for index in np.sort(chosen)]
        kind = _Arrays if found.kind == "arrays" else _Folder
        return kind(root, paths, notices=[*found.notices(root), *kind.notes(root, len(paths))])

    @staticmethod
    def files(root: Path, paths: Sequence[str], notices: Iterable[str] = ()) -> ImageSet:
        """Unlabelled images of these paths in a folder, in their order.

        Raises:
            DataError: there are none.
        """
        _check_samples(len(paths))
        return _Folder(root, paths, notices=notices)

    @staticmethod
    def labelled(root: Path, classes: int, order: ClassOrder | None = None) -> ImageSet:
        """All images of `root/<class>/`, with the index that `class_folders` gives the class folder.

        Args:
            root: the folder of class folders.
            classes: number of classes of the network.
            order: `index` reads folder names as class indices or ImageNet ids; `name` numbers the folders in the sorted
                order of their names, like torchvision's ImageFolder; None chooses by what the names look like.

        Raises:
            DataError: as for `folder` and `class_folders`, or no image is in a class folder.
            UnsupportedError: an unknown order.
        """
        found = find_images(root)
        paths = [path for path in found.paths if "/" in path]
        if not paths:
            raise DataError(f"{root}: expected images in class folders (DIR/<class>/<image>), found none in a folder")
        read = class_folders(root, classes, {path.split("/")[0] for path in paths}, order)
        notices = [*found.notices(root), read.notice(root)]
        if outside := len(found.paths) - len(paths):
            notices.append(f"{root}: {outside} left out, images in no class folder")
        labels = [read.indices[path.split("/")[0]] for path in paths]
        return _Folder(root, paths, labels, notices=filter(None, notices), class_folders=read)

    @staticmethod
    def from_dict(body: Mapping[str, Any]) -> ImageSet:
        """Recreate the set that `to_dict` described; `verify` then checks whether its files are still the same.

        Args:
            body: what `to_dict` returned, also after a round trip through JSON.

        Raises:
            ArtifactError: `body` does not come from `to_dict`.
        """
        try:
            return _SOURCES[body["source"]].recorded(body)
        except (KeyError, TypeError, ValueError, DataError) as error:
            raise ArtifactError(f"expected the description of a set of images, found another: {error!r}") from error

    def batches(self, preprocess: Preprocess | None, size: int, workers: Workers = ALONE) -> Iterator[Batch]:
        """Yield all readable images in order, in batches of `size`; fewer in the last one and where some are skipped.

        Skipped images are added to `unreadable`; the caller should report them.

        Args:
            preprocess: preprocessing of the images.
            size: images in a batch.
            workers: the processes of a distributed run, which take batches in turn. They stay in step: batches with no
                readable image are yielded, too.

        Raises:
            DataError: size < 1, or too many images cannot be read: all, or more than one and more than 1 % of the set.
            UnsupportedError: no preprocessing, as that of a network that does not take one image.

        Example:
            >>> batch = next(images.batches(edgeq.Preprocess(96, 96, mean=(0, 0, 0), std=(1, 1, 1)), size=4))
            >>> batch.images.shape, batch.labels.tolist()
            ((4, 3, 96, 96), [0, 1, 2, 3])
        """
        if preprocess is None:
            raise UnsupportedError(f"{self.name}: expected the preprocessing of the network's images, found none")
        # Not in `catch_warnings`: it changes state of the whole process, which the consumer would see between batches.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for pixels in self._passed(lambda index: self._load(index, preprocess), size, workers):
            stacked = np.array([*pixels.values()], np.float32).reshape(len(pixels), *preprocess.shape)
            labels = None if self.labels is None else [self.labels[index] for index in pixels]
            yield Batch(stacked, None if labels is None else np.array(labels, np.int64), tuple(pixels))

    def inputs(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        preprocess: Preprocess | None,
        size: int,
        workers: Workers = ALONE,
    ) -> Generator[Inputs, None, None]:
        """Yield what a network takes for all readable images or arrays, in batches as `batches` does, without labels.

        Args:
            shapes: the shape of every input of the network by its name, without the batch.
            preprocess: preprocessing of images; arrays need none.
            size: samples in a batch.
            workers: see `batches`.

        Raises:
            DataError: as for `batches`; images for a network with several inputs or of another shape; or an array that
                is not what the network takes, which the message names with its file.
            UnsupportedError: images without a preprocessing.

        Example:
            >>> preprocess = edgeq.Preprocess(96, 96, mean=(0, 0, 0), std=(1, 1, 1))
            >>> next(images.inputs({"image": (3, 96, 96)}, preprocess, size=4)).shape
            (4, 3, 96, 96)
        """
        if preprocess is None and len(shapes) > 1:
            raise UnsupportedError(
                f"{self.name}: expected arrays (.npz) for the inputs {', '.join(shapes)}, found images; name a folder "
                "of such files"
            )
        if preprocess is None:
            raise UnsupportedError(f"{self.name}: expected the preprocessing of the network's images, found none")
        if [*shapes.values()] != [preprocess.shape]:
            expected = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise DataError(
                f"{self.name}: expected the inputs {expected}, found images {list(preprocess.shape)}; prepare them to "
                "fit, or name a folder of arrays (.npy, .npz)"
            )
        for batch in self.batches(preprocess, size, workers):
            yield batch.images

    def _passed(
        self, load: Callable[[int], T | Unreadable], size: int, workers: Workers
    ) -> Generator[dict[int, T], None, None]:
        """Yield the samples of each batch of this process that can be read, by their index."""
        if size < 1:
            raise DataError(f"expected batches of at least 1 image, found {size}")
        self.unreadable = []
        blocks = [range(start, min(start + size, len(self))) for start in range(0, len(self), size)]
        mine = blocks[workers.rank :: workers.size]
        with closing(_loaded_ahead(load, size, chain.from_iterable(mine))) as decoded:
            for block in mine:
                found = dict(zip(block, decoded, strict=False))
                for index, loaded in found.items():
                    if isinstance(loaded, Unreadable):
                        self.unreadable.append(loaded)
                        self._check_unreadable(index + 1)
                readable = {index: one for index, one in found.items() if not isinstance(one, Unreadable)}
                if readable or workers.size > 1:
                    yield readable

    @abstractmethod
    def spread(self, count: int) -> ImageSet:
        """At most this many of the samples, evenly spread over the set, for a look at it."""

    def put_together(self, workers: Workers) -> None:
        """Gather in `unreadable` the images that all processes have skipped in the latest pass. Collective.

        Raises:
            DataError: too many in all, see `batches`.
        """
        self.unreadable = sorted(image for part in workers.all_gather(self.unreadable) for image in part)
        self._check_unreadable(len(self))

    @abstractmethod
    def __len__(self) -> int:
        """Number of images, readable or not."""

    @abstractmethod
    def place(self, index: int) -> Path | int:
        """The path of an image; of a rendered one, which has none, its index."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Describe the set as JSON values, so that `from_dict` finds the same images; reads all files, for digests."""

    @abstractmethod
    def verify(self) -> None:
        """Check that the files of a set from `from_dict` have not changed.

        Raises:
            ArtifactError: some files are missing or changed; the message names them.
        """

    @abstractmethod
    def _load(self, index: int, preprocess: Preprocess) -> NDArray[np.float32] | Unreadable: ...

    def _check_unreadable(self, seen: int) -> None:
        bad = [f"{path} ({reason})" for path, reason in self.unreadable]
        most = max(1, len(self) * _UNREADABLE_PERCENT // 100)
        if len(bad) > most or len(bad) == len(self):
            limit = f"at most {most} of all {len(self)} may be" if len(self) > 1 else "there is no other"
            raise DataError(
                f"{self.name}: {len(bad)} of the first {seen} {self.kind} cannot be read ({_few(bad)}), and {limit}; "
                "repair or remove them"
            )


class _Embedded(ImageSet):
    def __init__(self, split: glyphs.Split, samples: int) -> None:
        _check_samples(samples)
        if split not in get_args(glyphs.Split):
            raise DataError(f"expected the split train, calib or test of the embedded images, found {split!r}")
        super().__init__(f"embedded {split} images", [glyphs.label(index) for index in range(samples)])
        self._split, self._samples = split, samples

    @classmethod
    def recorded(cls, body: Mapping[str, Any]) -> Self:
        return cls(body["split"], operator.index(body["samples"]))

    def __len__(self) -> int:
        return self._samples

    def place(self, index: int) -> int:
        return index

    def to_dict(self) -> dict[str, Any]:
        return {"source": "embedded", "split": self._split, "samples": self._samples}

    def spread(self, count: int) -> ImageSet:
        """The first ones, which are of all classes in turn."""
        return _Embedded(self._split, min(count, self._samples))

    def verify(self) -> None:
        """Nothing to check: the images are rendered anew."""

    def _load(self, index: int, preprocess: Preprocess) -> NDArray[np.float32]:
        return preprocess(Image.fromarray(glyphs.render(self._split, index)))


class _Folder(ImageSet):
    source: ClassVar[str] = "folder"

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: Sequence[int] | None = None,
        digests: Sequence[str] | None = None,
        notices: Iterable[str] = (),
        class_folders: ClassFolders | None = None,
    ) -> None:
        if labels is not None and len(labels) != len(paths):
            raise DataError(f"expected a label for each of {len(paths)} images, found {len(labels)}")
        super().__init__(str(root), labels, tuple(notices), class_folders)
        self._root, self._paths, self._digests = root, paths, digests

    @staticmethod
    def notes(root: Path, count: int) -> Iterator[str]:
        """Yield lines for the user about what such files are, if that is not plain."""
        yield from ()

    def spread(self, count: int) -> ImageSet:
        """At most this many, evenly spread over the folder."""
        count = min(count, len(self))
        return type(self)(self._root, [self._paths[i * len(self) // count] for i in range(count)])

    @classmethod
    def recorded(cls, body: Mapping[str, Any]) -> Self:
        paths, digests = zip(*[(str(path), str(digest)) for path, digest in body["files"]], strict=True)
        labels = None if body["labels"] is None else [operator.index(label) for label in body["labels"]]
        return cls(Path(body["root"]), paths, labels, digests)

    def __len__(self) -> int:
        return len(self._paths)

    def place(self, index: int) -> Path:
        return self._root / self._paths[index]

    def to_dict(self) -> dict[str, Any]:
        if self._digests is None:
            self._digests = [self._digest(path) for path in self._paths]
        return {
            "source": self.source,
            "root": str(self._root.absolute()),
            "files": [[path, digest] for path, digest in zip(self._paths, self._digests, strict=True)],
            "labels": None if self.labels is None else list(self.labels),
        }

    def verify(self) -> None:
        if self._digests is None:
            return  # not from a description: nothing to compare with
        recorded = zip(self._paths, self._digests, strict=True)
        changed = [path for path, digest in recorded if self._digest(path) != digest]
        if changed:
            states = [f"{path} ({'changed' if (self._root / path).exists() else 'missing'})" for path in changed]
            raise ArtifactError(
                f"{self.name}: {len(changed)} of {len(self)} {self.kind} are not those that were recorded: "
                f"{_few(states)}; put them back, or record the folder again"
            )

    def _digest(self, path: str) -> str:
        """Return the digest of a file, or the empty string if it cannot be read."""
        try:
            return "" if self._blocks(path) else sha256(self._root / path)[:_DIGEST_DIGITS]
        except OSError:
            return ""

    def _blocks(self, path: str) -> bool:
        """Whether a path is no longer a regular file; opening a pipe or device might block for ever."""
        place = self._root / path
        return place.exists() and not place.is_file()

    def _load(self, index: int, preprocess: Preprocess) -> NDArray[np.float32] | Unreadable:
        path = self._paths[index]
        try:
            if self._blocks(path):
                return Unreadable(path, _NO_FILE)
            with Image.open(self._root / path, formats=formats()) as image:
                check_size(*image.size)
                return preprocess(image)
        except UnidentifiedImageError:
            return Unreadable(path, "not an image")
        except Exception as error:  # decoders raise many types: OSError, SyntaxError, struct.error
            return Unreadable(path, one_line(error))


class _Arrays(_Folder):
    """A folder of arrays, see `edgeq.data.array_files`."""

    source: ClassVar[str] = "arrays"
    kind: ClassVar[Kind] = "arrays"

    @staticmethod
    def notes(root: Path, count: int) -> Iterator[str]:
        yield f"{root}: {count} files of arrays, taken as the network takes them, without preprocessing"

    def inputs(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        preprocess: Preprocess | None,
        size: int,
        workers: Workers = ALONE,
    ) -> Generator[Inputs, None, None]:
        for found in self._passed(lambda index: self._arrays(index, shapes), size, workers):
            inputs = {
                name: np.array([arrays[name] for arrays in found.values()], np.float32).reshape(len(found), *shape)
                for name, shape in shapes.items()
            }
            yield inputs if len(inputs) > 1 else next(iter(inputs.values()))

    def _arrays(self, index: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]] | Unreadable:
        path = self._paths[index]
        try:
            if self._blocks(path):
                return Unreadable(path, _NO_FILE)
            return read_arrays(self._root / path, shapes)
        except DataError:
            raise
        except Exception as error:  # OSError, ValueError, BadZipFile, zlib.error, RuntimeError of encrypted ones
            return Unreadable(path, one_line(error))

    def _load(self, index: int, preprocess: Preprocess) -> Unreadable:
        raise DataError(f"{self.name}: expected images, found arrays, which only a network's inputs can be; see inputs")


_SOURCES: Final[dict[str, type[_Embedded] | type[_Folder]]] = {
    "embedded": _Embedded, "folder": _Folder, "arrays": _Arrays,
}  # fmt: skip


def _loaded_ahead(
    load: Callable[[int], T | Unreadable], size: int, indexes: Iterable[int]
) -> Generator[T | Unreadable, None, None]:
    """Yield `load(index)` for each index, computed in threads up to a batch plus one sample per thread ahead."""
    threads = min(thread_count(), _MOST_THREADS)
    pool = ThreadPoolExecutor(threads, "edgeq-images")
    waiting: deque[Future[T | Unreadable]] = deque()
    try:
        for index in indexes:
            waiting.append(pool.submit(load, index))
            if len(waiting) == size + threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise DataError(f"expected at least 1 sample, found {samples}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
