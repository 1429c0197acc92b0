"""What `edgeq.preflight` says of images that are prepared wrongly, of another kind or too alike, and of good ones.

    python benchmarks/preflight.py --imagenet DIR

DIR has `mobilenet_v2.safetensors`, `squeezenet1_1.safetensors` and images, `calib/<class>/*` and `val/<class>/*`. In
that file of MobileNetV2, batch norms are folded and their statistics lost; they are measured anew, on a quarter of the
calibration images, cropped and mirrored at random as in training. The limits of `edgeq.preflight` were chosen on other
calibration images and on the embedded ones; the images here are validation images and the embedded test images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, cast

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision import models, transforms

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.calibration.preflight import LOOKS
from edgeq.data import glyphs
from edgeq.data.preprocess import IMAGENET, Preprocess
from edgeq.ir.network import Network
from edgeq.system.environment import environment

Take = Callable[[Preprocess, int, int], NDArray[np.float32]]
"""Draws images: from their preprocessing, their number and a seed, float32 `[n, 3, rows, columns]`."""

KINDS = {
    "range": "not those that the network", "channels": "red and blue", "far": "far from those",
    "few": "few to calibrate", "copies": "are copies", "blank": "one value", "one class": "the same class",
}  # fmt: skip
"""The warnings, by words that only one of them has."""


def with_statistics(folder: Path) -> nn.Module:
    """MobileNetV2, whose first twelve batch norms know what they see; it computes what it did."""
    module: nn.Module = models.mobilenet_v2().eval()
    module.load_state_dict(load_file(folder / "mobilenet_v2.safetensors"))
    first = cast(nn.Sequential, module.features)[:5]
    norms = [part for part in first.modules() if isinstance(part, nn.BatchNorm2d)]
    seen: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {norm: [] for norm in norms}

    def look(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0].double(), (0, 2, 3), correction=0)
        seen[norm].append((mean, variance + mean.square()))

    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    augmented = transforms.Compose([
        transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
        transforms.Normalize(IMAGENET.mean, IMAGENET.std),
    ])  # fmt: skip
    torch.manual_seed(0)
    with torch.inference_mode():
        for path in sorted((folder / "calib").glob("*/*"))[::4]:
            first(augmented(Image.open(path).convert("RGB"))[None])
    with torch.no_grad():
        for norm, hook in zip(norms, hooks, strict=True):
            hook.remove()
            means, squares = (torch.stack(part).mean(0) for part in zip(*seen[norm], strict=True))
            norm.running_mean = means.float()
            norm.running_var = (squares - means.square()).float()
            norm.bias.add_(norm.running_mean)
            norm.weight.mul_(((norm.running_var + norm.eps) / (1 + norm.eps)).sqrt())
    return module


def photographs(folder: Path, preprocess: Preprocess, count: int, seed: int) -> NDArray[np.float32]:
    images = edgeq.ImageSet.folder(folder / "val", count, seed)
    return np.concatenate([batch.images for batch in images.batches(preprocess, 16)])


def characters(only: int | None, preprocess: Preprocess, count: int, seed: int) -> NDArray[np.float32]:
    """The embedded test images, of one class or all."""
    pool = [i for i in range(43 * LOOKS) if only is None or glyphs.label(i) == only]
    chosen = np.random.default_rng(seed).choice(pool, count, replace=False)
    return np.stack([preprocess(Image.fromarray(glyphs.render("test", int(i)))) for i in chosen])


def copies(take: Take, preprocess: Preprocess, count: int, seed: int) -> NDArray[np.float32]:
    return np.repeat(take(preprocess, 1, seed), count, 0)


@dataclass(frozen=True)
class Case:
    """Images that a network is fed: how many, of what, prepared how, and how often they are drawn."""

    take: Take
    preprocess: Preprocess
    count: int = LOOKS
    runs: int = 1


def cases(right: Preprocess, own: Take, other: Take, runs: int) -> dict[str, Case]:
    ones, halves = (1.0, 1.0, 1.0), (0.5, 0.5, 0.5)
    plain = replace(right, mean=(0.0, 0.0, 0.0), std=ones)
    return {
        "good images, 64": Case(own, right, runs=runs),
        "good images, 32": Case(own, right, 32, runs),
        "good images, 16": Case(own, right, 16, 2 * runs),
        "0..255 in place of normalized": Case(own, replace(plain, std=(1 / 255, 1 / 255, 1 / 255))),
        "0..1 in place of normalized": Case(own, plain),
        "-1..1 in place of normalized": Case(own, replace(right, mean=halves, std=halves)),
        "red and blue exchanged": Case(own, replace(right, channel_order="bgr")),
        "another domain": Case(other, right),
        "five images": Case(own, right, 5),
        "copies of one image": Case(partial(copies, own), right),
    }


def row(network: Network, name: str, fed: str, case: Case) -> dict[str, Any]:
    warned: Counter[str] = Counter()
    lines: list[str] = []
    began = monotonic()
    for seed in range(case.runs):
        found = edgeq.preflight(network, [case.take(case.preprocess, case.count, seed)], case.preprocess)
        warned.update(kind for kind, words in KINDS.items() if any(words in line for line in found))
        lines += found
    seconds = round((monotonic() - began) / case.runs, 1)
    made = {"network": name, "fed": fed, "images": case.count, "runs": case.runs, "warned": dict(warned)}
    return made | {"lines": lines, "seconds": seconds}


@click.command()
@click.option("--imagenet", type=click.Path(exists=True, path_type=Path), required=True)
def main(imagenet: Path) -> None:
    source = edgeq.load()
    own = edgeq.Preprocess.from_dict(source.to_dict()["preprocess"])
    squeezenet = edgeq.load("squeezenet1_1", str(imagenet / "squeezenet1_1.safetensors"), IMAGENET)
    letters, photos = partial(characters, None), partial(photographs, imagenet)
    networks: Mapping[str, tuple[Network, dict[str, Case]]] = {
        "embedded": (
            source.network,
            cases(own, letters, photos, 5) | {"one class": Case(partial(characters, 10), own)},
        ),
        "mobilenet_v2": (edgeq.trace(with_statistics(imagenet), IMAGENET.shape), cases(IMAGENET, photos, letters, 2)),
        "squeezenet1_1": (squeezenet.network, cases(IMAGENET, photos, letters, 1)),
    }
    rows = []
    for name, (network, fed) in networks.items():
        for words, case in fed.items():
            rows.append(row(network, name, words, case))
            click.echo(rows[-1])
    body = {"rows": rows, "environment": environment()}
    write_json(Path(__file__).parent / "results" / "preflight.json", "preflight", 1, body)


if __name__ == "__main__":
    main()
