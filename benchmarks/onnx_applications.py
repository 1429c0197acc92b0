"""The trained ONNX files that ship in two wheels, and the wheels' own code that runs them, for `onnx_files.py`.

An application is opened with its session replaced: what it feeds a session with is what the network is calibrated on,
and what it answers with an exported file in place of the original is what a user of that file sees.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image
from text_images import Part, Pixels, Writer

Boxes = NDArray[np.float64]
"""`[n, 4]`: left, top, right, bottom."""


class Recording:
    """A session that keeps what it is run on."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.inputs: list[NDArray[np.float32]] = []

    def run(self, names: Sequence[str] | None, feed: Mapping[str, NDArray[np.float32]]) -> list[Any]:
        (array,) = feed.values()
        self.inputs.append(np.ascontiguousarray(array))
        found: list[Any] = self._session.run(names, feed)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class Application(ABC):
    """One file and the code that runs it.

    Attributes:
        wheel, file: where it is.
        shape: of its input, with the batch first, as `--input-shape` takes it.
        unit: what `likeness` is a share of.
        calibration, test: how many images it is calibrated and judged on.
    """

    wheel: str
    file: str
    shape: str
    unit: str
    calibration: int = 64
    test: int = 80

    @property
    def path(self) -> Path:
        found = importlib.import_module(self.wheel).__file__
        assert found is not None
        return Path(found).parent / self.file

    @abstractmethod
    def images(self, part: Part, count: int) -> list[Pixels]:
        """Images as a user would have them."""

    @abstractmethod
    def opened(self, model: Path) -> Any:
        """The wheel's own object with a file in place of the original."""

    @abstractmethod
    def holder(self, opened: Any) -> Any:
        """What has the session of an opened application as its attribute `session`."""

    @abstractmethod
    def answer(self, opened: Any, image: Pixels) -> Any:
        """What it finds in an image."""

    @abstractmethod
    def likeness(self, expected: Any, found: Any) -> tuple[float, float]:
        """How much of an answer is the same in another, and of how much."""

    def inputs(self, images: Sequence[Pixels]) -> list[NDArray[np.float32]]:
        """What the original is run on for some images, with the batch."""
        opened = self.opened(self.path)
        holder = self.holder(opened)
        holder.session = recording = Recording(holder.session)
        for image in images:
            self.answer(opened, image)
        return recording.inputs

    def answers(self, model: Path, images: Sequence[Pixels]) -> list[Any]:
        opened = self.opened(model)
        return [self.answer(opened, image) for image in images]


class _Rapid(Application):
    wheel = "rapidocr_onnxruntime"
    module: str
    kind: str
    options: ClassVar[Mapping[str, Any]]
    held = "session"

    def opened(self, model: Path) -> Any:
        made = getattr(importlib.import_module(f"{self.wheel}.{self.module}"), self.kind)
        return made({"model_path": str(model), "intra_op_num_threads": 1, "inter_op_num_threads": 1, **self.options})

    def holder(self, opened: Any) -> Any:
        return getattr(opened, self.held)


class _Lines(Application):
    """Those that read a line of text."""

    unit = "characters"
    calibration, test = 256, 400

    def likeness(self, expected: str, found: str) -> tuple[float, float]:
        return len(expected) - min(edits(expected, found), len(expected)), len(expected)


class TextRecognition(_Rapid, _Lines):
    file = "models/ch_PP-OCRv4_rec_infer.onnx"
    shape = "1x3x48x320"
    module, kind = "ch_ppocr_rec.text_recognize", "TextRecognizer"
    options: ClassVar = {"rec_batch_num": 1, "rec_img_shape": [3, 48, 320]}

    def images(self, part: Part, count: int) -> list[Pixels]:
        writer = Writer(part, 0)
        return [writer.line((48, 320), 22).pixels for _ in range(count)]

    def answer(self, opened: Any, image: Pixels) -> str:
        ((text, _),), _ = opened([image[..., ::-1]])
        return str(text)


class TextOrientation(_Rapid):
    file = "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
    shape = "1x3x48x192"
    unit = "lines"
    calibration, test = 256, 400
    module, kind, held = "ch_ppocr_cls.text_cls", "TextClassifier", "infer"
    options: ClassVar = {
        "cls_image_shape": [3, 48, 192], "cls_batch_num": 1, "cls_thresh": 0.9, "label_list": ["0", "180"],
    }  # fmt: skip

    def images(self, part: Part, count: int) -> list[Pixels]:
        """Every other one upside down."""
        writer = Writer(part, 1)
        lines = [writer.line((48, 192), 14).pixels for _ in range(count)]
        return [np.ascontiguousarray(line[::-1, ::-1]) if i % 2 else line for i, line in enumerate(lines)]

    def answer(self, opened: Any, image: Pixels) -> str:
        _, ((label, _),), _ = opened([image[..., ::-1]])
        return str(label)

    def likeness(self, expected: str, found: str) -> tuple[float, float]:
        return float(expected == found), 1


class _Detection(Application):
    unit = "boxes"

    def likeness(self, expected: Boxes, found: Boxes) -> tuple[float, float]:
        """Boxes that the other answer has, too: as much of their union as 0.8 is in both."""
        return 2 * matched(expected, found, 0.8), len(expected) + len(found)


class TextDetection(_Rapid, _Detection):
    file = "models/ch_PP-OCRv4_det_infer.onnx"
    shape = "1x3x320x320"
    module, kind, held = "ch_ppocr_det.text_detect", "TextDetector", "infer"
    options: ClassVar = {
        "limit_side_len": 320, "limit_type": "min", "mean": [0.5] * 3, "std": [0.5] * 3, "thresh": 0.3,
        "box_thresh": 0.5, "max_candidates": 1000, "unclip_ratio": 1.6, "use_dilation": True, "score_mode": "fast",
    }  # fmt: skip

    def images(self, part: Part, count: int) -> list[Pixels]:
        writer = Writer(part, 2)
        return [writer.page((320, 320)) for _ in range(count)]

    def answer(self, opened: Any, image: Pixels) -> Boxes:
        corners, _ = opened(np.ascontiguousarray(image[..., ::-1]))
        found = np.zeros((0, 4, 2)) if corners is None else np.asarray(corners, np.float64).reshape(-1, 4, 2)
        return np.concatenate([found.min(1), found.max(1)], axis=1)


class _Captcha(Application):
    wheel = "ddddocr"
    module: str
    kind: str
    options: ClassVar[Mapping[str, Any]] = {}

    def opened(self, model: Path) -> Any:
        made = getattr(importlib.import_module(f"{self.wheel}.core.{self.module}"), self.kind)(**self.options)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        made.session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return made

    def holder(self, opened: Any) -> Any:
        return opened


class CaptchaRecognition(_Captcha, _Lines):
    file = "common.onnx"
    shape = "1x1x64x160"
    module, kind = "ocr_engine", "OCREngine"
    options: ClassVar = {"beta": True}  # which of its two files is the one in float

    def images(self, part: Part, count: int) -> list[Pixels]:
        writer = Writer(part, 3)
        return [writer.line((64, 160), 6).pixels for _ in range(count)]

    def answer(self, opened: Any, image: Pixels) -> str:
        return str(opened.predict(Image.fromarray(image)))


class CaptchaDetection(_Captcha, _Detection):
    file = "common_det.onnx"
    shape = "1x3x416x416"
    module, kind = "detection_engine", "DetectionEngine"

    def images(self, part: Part, count: int) -> list[Pixels]:
        writer = Writer(part, 4)
        return [writer.letters((416, 416)) for _ in range(count)]

    def answer(self, opened: Any, image: Pixels) -> Boxes:
        return np.asarray(opened.predict(Image.fromarray(image)), np.float64).reshape(-1, 4)


APPLICATIONS: Final[Mapping[str, Application]] = {
    "text detection": TextDetection(),
    "text recognition": TextRecognition(),
    "text orientation": TextOrientation(),
    "captcha detection": CaptchaDetection(),
    "captcha recognition": CaptchaRecognition(),
}


def edits(one: str, other: str) -> int:
    """Characters to insert, delete or change (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def matched(some: Boxes, others: Boxes, least: float) -> int:
    """Pairs of boxes that have this share of their union in common, each box in one pair at most."""
    left: list[Any] = list(others)
    count = 0
    for box in some:
        shares = [_overlap(box, other) for other in left]
        if shares and max(shares) >= least:
            left.pop(int(np.argmax(shares)))
            count += 1
    return count


def _overlap(a: Any, b: Any) -> float:
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    both = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return float(both / (sum(areas) - both)) if both else 0.0
