"""A trained detector, its decoding inside: what quantization does to boxes and scores that share one output.

    python benchmarks/detector.py --work DIR

Networks that detect objects return boxes in pixels and scores in 0..1, often in one tensor, as YOLO's do; a tool that
gives that tensor one scale loses the scores. So a small detector in the manner of YOLOv8 (cross-stage blocks with SiLU,
two scales, boxes as distributions over distances) is trained on scenes of rendered characters, which takes some
minutes, and quantized by edgeq and by ONNX Runtime's quantize_static. The latter sees the same calibration scenes, with
minimum and maximum as ranges, as is its default. Files that are in DIR already are not made again. Everything goes to
`benchmarks/results/detector.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from peer_tools import static_file
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.data import glyphs
from edgeq.evaluation.latency import interleaved
from edgeq.runtimes.jobs import Job
from edgeq.runtimes.onnxruntime import session_of
from edgeq.system.environment import environment

SIZE: Final = 128
STRIDES: Final = (8, 16)
DISTANCES: Final = 8
CLASSES: Final = 10  # the digits
SMALL: Final = 44  # pixels: up to here a box belongs to the finer scale
STEPS: Final = 1500
BATCH: Final = 16
DRAWN: Final = 1000  # characters that scenes are made of
CALIBRATION: Final = 256
HELD_OUT: Final = 256
SCHEMES: Final = ("fp32", "8bit", "4bit", "adaptive", "2bit")
STATIC: Final = "quantize_static"
RUNS: Final = 100
Scene = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
"""An image `[3, 128, 128]`, its boxes `[objects, 4]` as corners in pixels, and their classes `[objects]`."""


class Block(nn.Module):
    """A convolution with batch norm and SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.conv(x)))


class CrossStage(nn.Module):
    """YOLOv8's C2f: halves of the channels, one of them through a residual pair of convolutions, concatenated."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, half = Block(inputs, outputs, 1), outputs // 2
        self.pair = nn.Sequential(Block(half, half), Block(half, half))
        self.last = Block(outputs + half, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = self.first(x).chunk(2, 1)
        y: Tensor = self.last(torch.cat([kept, worked, worked + self.pair(worked)], 1))
        return y


class Detector(nn.Module):
    """Returns `[n, 4 + classes, anchors]`: centre and size of a box in pixels, then the scores of the classes."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(Block(3, w, 3, 2), Block(w, w, 3, 2), CrossStage(w, w))
        self.fine = nn.Sequential(Block(w, 2 * w, 3, 2), CrossStage(2 * w, 2 * w))
        self.coarse = nn.Sequential(Block(2 * w, 4 * w, 3, 2), CrossStage(4 * w, 4 * w))
        self.merged = CrossStage(6 * w, 2 * w)
        channels = (2 * w, 4 * w)
        self.boxes = nn.ModuleList(nn.Sequential(Block(c, 2 * w), nn.Conv2d(2 * w, 4 * DISTANCES, 1)) for c in channels)
        self.scores = nn.ModuleList(nn.Sequential(Block(c, 2 * w), nn.Conv2d(2 * w, CLASSES, 1)) for c in channels)
        for head in self.scores:
            nn.init.constant_(head[-1].bias, -5.0)  # type: ignore[index]
        points, strides = anchors()
        self.register_buffer("points", points)
        self.register_buffer("strides", strides)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of distances `[n, 4, distances, anchors]` and of classes `[n, classes, anchors]`."""
        fine = self.fine(self.stem(x))
        coarse = self.coarse(fine)
        fine = self.merged(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], 1))
        maps = (fine, coarse)
        boxes = torch.cat([head(m).flatten(2) for head, m in zip(self.boxes, maps, strict=True)], 2)
        scores = torch.cat([head(m).flatten(2) for head, m in zip(self.scores, maps, strict=True)], 2)
        return boxes.reshape(boxes.shape[0], 4, DISTANCES, boxes.shape[2]), scores

    def corners(self, logits: Tensor) -> Tensor:
        """Boxes `[n, 4, anchors]` as corners in pixels, each side by the expected value of its distance."""
        steps = torch.arange(DISTANCES, dtype=torch.float32)[:, None]
        reach = (logits.softmax(2) * steps).sum(2)
        points, strides = self.get_buffer("points"), self.get_buffer("strides")
        return torch.cat([points - reach[:, :2], points + reach[:, 2:]], 1) * strides

    def forward(self, x: Tensor) -> Tensor:
        logits, scores = self.heads(x)
        low, high = self.corners(logits).chunk(2, 1)
        return torch.cat([(low + high) / 2, high - low, scores.sigmoid()], 1)


def anchors() -> tuple[Tensor, Tensor]:
    """Centres of the cells, in strides, `[2, anchors]`, and the stride of each `[anchors]`."""
    points, strides = [], []
    for stride in STRIDES:
        line = torch.arange(SIZE // stride, dtype=torch.float32) + 0.5
        points.append(torch.cartesian_prod(line, line).T.flip(0))
        strides.append(torch.full((len(line) ** 2,), float(stride)))
    return torch.cat(points, 1), torch.cat(strides)


def characters(split: glyphs.Split) -> list[NDArray[np.uint8]]:
    """Digits, in turns: number `i` is the digit `i % 10`."""
    sets = range(DRAWN // CLASSES)
    return [glyphs.render(split, turn * len(glyphs.CLASSES) + digit) for turn in sets for digit in range(CLASSES)]


def scene(drawn: list[NDArray[np.uint8]], rng: np.random.Generator) -> Scene:
    """Up to six characters, none over another, on a background of noise."""
    image = rng.normal(rng.uniform(60, 200, 3), rng.uniform(0, 20), (SIZE, SIZE, 3))
    boxes: list[tuple[float, ...]] = []
    labels = []
    for index in rng.integers(0, len(drawn), rng.integers(1, 7)):
        size = int(rng.integers(24, 72))
        left, top = (int(v) for v in rng.integers(0, SIZE - size, 2))
        box = (left, top, left + size, top + size)
        if all(box[0] >= b[2] or b[0] >= box[2] or box[1] >= b[3] or b[1] >= box[3] for b in boxes):
            resized = np.asarray(Image.fromarray(drawn[index]).resize((size, size)))
            image[top : top + size, left : left + size] = resized
            boxes.append(box)
            labels.append(int(index) % CLASSES)
    pixels = (image.clip(0, 255) / 255).transpose(2, 0, 1).astype(np.float32)
    return pixels, np.array(boxes, np.float32), np.array(labels)


def loss(module: Detector, scenes: list[Scene]) -> Tensor:
    """Class scores at all cells; overlap and distances of boxes at the cells in the middle of an object."""
    logits, scores = module.heads(torch.from_numpy(np.stack([image for image, *_ in scenes])))
    points, strides = module.get_buffer("points"), module.get_buffer("strides")
    wanted, targets, chosen = torch.zeros_like(scores), [], []
    for i, (_, boxes, labels) in enumerate(scenes):
        for box, label in zip(torch.from_numpy(boxes), labels, strict=True):
            middle, size = (box[:2] + box[2:]) / 2, float(box[2] - box[0])
            near = ((points * strides - middle[:, None]).abs() < size / 4).all(0)
            own = (near & (strides == STRIDES[size > SMALL])).nonzero()[:, 0]
            wanted[i, int(label), own] = 1
            targets.append(box.expand(len(own), 4))
            chosen.append(torch.stack([torch.full_like(own, i), own]))
    (image, cell), target = torch.cat(chosen, 1), torch.cat(targets)
    found = module.corners(logits)[image, :, cell]
    inner = torch.minimum(found[:, 2:], target[:, 2:]) - torch.maximum(found[:, :2], target[:, :2])
    shared = inner.clamp(min=0).prod(1)
    union = (found[:, 2:] - found[:, :2]).prod(1) + (target[:, 2:] - target[:, :2]).prod(1) - shared
    centre, unit = points[:, cell].T, strides[cell, None]
    reach = torch.cat([centre - target[:, :2] / unit, target[:, 2:] / unit - centre], 1).clamp(0, DISTANCES - 1.01)
    below, share = reach.floor().long(), reach.frac()
    logs = logits[image, :, :, cell].log_softmax(2)
    distances = -(logs.gather(2, below[..., None])[..., 0] * (1 - share)).mean()
    distances = distances - (logs.gather(2, below[..., None] + 1)[..., 0] * share).mean()
    classes = F.binary_cross_entropy_with_logits(scores, wanted, reduction="sum") / max(len(cell), 1)
    return classes + 2 * (1 - shared / union).mean() + distances


def trained(path: Path) -> Detector:
    """The detector, trained unless its weights are there."""
    torch.manual_seed(0)
    module = Detector()
    if path.exists():
        module.load_state_dict(torch.load(path, weights_only=True))
        return module.eval()
    drawn, rng = characters("train"), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(module.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, STEPS)
    for step in range(STEPS):
        optimizer.zero_grad()
        value = loss(module, [scene(drawn, rng) for _ in range(BATCH)])
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            click.echo(f"step {step}: loss {float(value.detach()):.2f}", err=True)
    torch.save(module.state_dict(), path)
    return module.eval()


def average_precision(outputs: NDArray[np.float32], scenes: list[Scene]) -> float:
    """Mean over classes of the average precision at an overlap of a half, in percent (as in PASCAL VOC 2010)."""
    hits: dict[int, list[tuple[float, bool]]] = {label: [] for label in range(CLASSES)}
    objects = np.bincount(np.concatenate([labels for *_, labels in scenes]), minlength=CLASSES)
    for output, (_, boxes, labels) in zip(outputs, scenes, strict=True):
        cells = torch.from_numpy(output)
        score, label = cells[4:].max(0)
        corners = torch.cat([cells[:2] - cells[2:4] / 2, cells[:2] + cells[2:4] / 2]).T
        kept = batched_nms(corners, score, label, 0.5)
        kept = kept[score[kept] > 0.01]
        overlaps, taken = box_iou(corners[kept], torch.from_numpy(boxes)), set()
        for row, i in zip(overlaps, kept, strict=True):
            best = max(
                (j for j in range(len(labels)) if labels[j] == label[i]), key=lambda j: float(row[j]), default=-1
            )
            hit = best >= 0 and best not in taken and float(row[best]) >= 0.5
            taken |= {best} if hit else set()
            hits[int(label[i])].append((float(score[i]), hit))
    return 100 * float(np.mean([_precision(found, objects[c]) for c, found in hits.items() if objects[c]]))


def _precision(found: list[tuple[float, bool]], objects: int) -> float:
    right = np.cumsum([hit for _, hit in sorted(found, reverse=True)])
    if not len(right):
        return 0.0
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    gained = np.diff(right, prepend=0) > 0
    return float(precision[gained].sum() / objects)


def exported(module: Detector, scenes: list[Scene], work: Path, effort: str) -> dict[str, Path]:
    """A file for each scheme, and that of quantize_static."""
    batches = [np.stack([image for image, *_ in scenes[i : i + BATCH]]) for i in range(0, len(scenes), BATCH)]
    files = {scheme: work / f"detector-{scheme}.onnx" for scheme in (*SCHEMES, STATIC)}
    if all(path.exists() for path in files.values()):
        return files
    network = edgeq.trace(module, (3, SIZE, SIZE))
    record = edgeq.calibrate(network, batches)
    for scheme in SCHEMES:
        if files[scheme].exists():
            continue
        plan = edgeq.plan(record, edgeq.Recipe(scheme, effort="fast" if scheme == "fp32" else effort))
        layers = edgeq.quantize(network, record, plan, batches)
        layers = edgeq.tune(network, record, plan, layers, batches)
        packed = edgeq.pack(network, layers, record, plan) if layers else network
        edgeq.export(packed, files[scheme], record, plan, batches[:2], force=True)
    static_file(str(files["fp32"]), str(files[STATIC]), iter(batches))
    return files


def ratio(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Signal-to-noise ratio in dB; the signal is what varies, channel by channel, so that no mean counts."""
    signal = np.square(expected - expected.mean((0, 2), keepdims=True)).sum()
    return float(10 * np.log10(signal / max(np.square(expected - found).sum(), 1e-12)))


def row(path: Path, expected: NDArray[np.float32], scenes: list[Scene]) -> dict[str, Any]:
    outputs = answers(path, scenes)
    found = {"bytes": path.stat().st_size, "average_precision": average_precision(outputs, scenes)}
    if not np.array_equal(outputs, expected):
        found |= {
            "boxes_db": ratio(expected[:, :4], outputs[:, :4]),
            "scores_db": ratio(expected[:, 4:], outputs[:, 4:]),
        }
    return found


def answers(path: Path, scenes: list[Scene]) -> NDArray[np.float32]:
    session = session_of(str(path))
    parts = [session.run(None, {"image": np.stack([image for image, *_ in scenes[i : i + BATCH]])})[0]
             for i in range(0, len(scenes), BATCH)]  # fmt: skip
    return np.concatenate(parts)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder for weights and files; kept.")
@click.option("--effort", default="balanced")
def main(work: Path, effort: str) -> None:
    work.mkdir(parents=True, exist_ok=True)
    module = trained(work / "detector.pt")
    sets: Mapping[glyphs.Split, int] = {"calib": CALIBRATION, "test": HELD_OUT}
    drawn = {split: (characters(split), np.random.default_rng(1)) for split in sets}
    calibration, held_out = ([scene(*drawn[split]) for _ in range(count)] for split, count in sets.items())
    files = exported(module, calibration, work, effort)
    expected = answers(files["fp32"], held_out)
    rows = {name: row(path, expected, held_out) for name, path in files.items()}
    jobs = [Job.of("onnxruntime", str(path), (3, SIZE, SIZE), 1, 1, False) for path in files.values()]
    for name, samples in zip(files, interleaved(jobs, RUNS, 10, lambda done: None), strict=True):
        rows[name] |= {"median_ms": float(np.median(samples)), "samples_ms": samples}
        click.echo(f"{name}: { ({k: v for k, v in rows[name].items() if k != 'samples_ms'}) }")
    body = {"environment": environment(), "effort": effort, "images": HELD_OUT, "rows": rows}
    write_json(Path(__file__).parent / "results" / "detector.json", "detector", 1, body)


if __name__ == "__main__":
    main()
