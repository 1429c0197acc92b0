"""Train the embedded network: torchvision's MobileNetV2 on characters that `edgeq.data.glyphs` renders.

    python tools/train_embedded.py --output edgeq/assets/mobilenet_v2_glyphs.safetensors

Every training image is new (none is drawn twice), the first epochs see it at 48 pixels to save time, the last at 96.
Batch norms and biases are stored in float32, the other weights in float16. One JSON line per epoch is appended to
the log; the last line is the accuracy of the stored file on the held-out split.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import mobilenet_v2

from edgeq.data import glyphs

BATCH = 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Glyphs(Dataset[tuple[Tensor, int]]):
    """Images `start` to `start + count - 1` of one split, normalized float32 `[3, 96, 96]`."""

    def __init__(self, split: glyphs.Split, start: int, count: int) -> None:
        self.split, self.start, self.count = split, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        pixels = glyphs.render(self.split, self.start + item).astype(np.float32) / 255.0
        normalized = (pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        return torch.from_numpy(normalized.transpose(2, 0, 1).copy()), glyphs.label(self.start + item)


def batches(
    split: glyphs.Split, start: int, count: int, shuffle: bool, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    yield from DataLoader(Glyphs(split, start, count), BATCH, shuffle=shuffle, num_workers=workers)


@torch.no_grad()
def accuracy(model: nn.Module, count: int, workers: int) -> float:
    model.eval()
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches("test", 0, count, False, workers))
    return hits / count


def stored(model: nn.Module) -> dict[str, Tensor]:
    """The state to ship: matrices in half precision, vectors (batch norms, biases) in single."""
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    return {k: (v.half() if v.dim() > 1 else v.float()).contiguous() for k, v in state.items()}


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path), default=Path("benchmarks/results/train_embedded.jsonl"))
@click.option("--epochs", default=24, help="Of 12,900 images (300 of each class).")
@click.option("--low-epochs", default=14, help="The first epochs, at 48 pixels.")
@click.option("--lr", default=4e-3)
@click.option("--workers", default=1)
@click.option("--seed", default=0)
def main(output: Path, log: Path, epochs: int, low_epochs: int, lr: float, workers: int, seed: int) -> None:
    torch.manual_seed(seed)
    per_epoch = 300 * len(glyphs.CLASSES)
    model = mobilenet_v2(num_classes=len(glyphs.CLASSES)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.02)
    steps = epochs * -(-per_epoch // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps, pct_start=0.2)
    log.parent.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)

    def note(**entry: object) -> None:
        line = json.dumps(entry)
        click.echo(line)
        with log.open("a") as file:
            file.write(line + "\n")

    note(
        torch=torch.__version__,
        machine=platform.machine(),
        threads=torch.get_num_threads(),
        classes=glyphs.CLASSES,
        epochs=epochs,
        images_per_epoch=per_epoch,
        lr=lr,
        batch=BATCH,
        seed=seed,
    )
    began = time.monotonic()
    for epoch in range(epochs):
        model.train()
        losses: list[float] = []
        size = glyphs.SIZE // 2 if epoch < low_epochs else glyphs.SIZE
        for images, y in batches("train", epoch * per_epoch, per_epoch, True, workers):
            resized = F.interpolate(images, size, mode="area") if size != glyphs.SIZE else images
            x = resized.to(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=size == glyphs.SIZE):  # slower on small maps
                loss = F.cross_entropy(model(x), y, label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        top1 = accuracy(model, 20 * len(glyphs.CLASSES), workers) if size == glyphs.SIZE else None
        note(
            epoch=epoch,
            size=size,
            loss=round(float(np.mean(losses)), 4),
            top1_860=top1,
            seconds=round(time.monotonic() - began),
        )
        save_file(stored(model), output)
    model.load_state_dict(stored(model), strict=False)
    note(
        stored_bytes=output.stat().st_size,
        held_out=100 * len(glyphs.CLASSES),
        top1=accuracy(model, 100 * len(glyphs.CLASSES), workers),
        seconds=round(time.monotonic() - began),
    )


if __name__ == "__main__":
    main()
