"""Which observer should be the default? Only activations quantized, judged on calibration images not calibrated on.

    python benchmarks/observers.py --model mobilenet_v2 --weights mobilenet_v2.safetensors --images calib

Every fifth batch of images is held out. For each observer: the divergence of the class probabilities from those of the
float network, which decides, agreement of the top-1, and SQNR of the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import numpy as np
import torch
from numpy.typing import NDArray
from shared import divergence

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.calibration.ranges import RangeChoice
from edgeq.ir.network import Network
from edgeq.system.environment import environment

HELD_OUT = 5


def logits(network: Network, batches: Iterator[NDArray[np.float32]]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([network(torch.from_numpy(batch)) for batch in batches]).double()


@click.command()
@click.option("--model", default="mobilenet_v2")
@click.option("--weights", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--samples", default=500)
def main(model: str, weights: Path, images: Path, samples: int) -> None:
    source = edgeq.load(model, str(weights))
    chosen = edgeq.ImageSet.folder(images, samples, 0)

    def batches(held_out: bool) -> Iterator[NDArray[np.float32]]:
        for i, batch in enumerate(chosen.batches(source.preprocess, 8)):
            if (i % HELD_OUT == 0) == held_out:
                yield batch.images

    reference = logits(source.network, batches(True))
    rows = []
    for observer in get_args(RangeChoice):
        record = edgeq.calibrate(source.network, batches(False), observer)
        # No layer is quantized: all are the float ones.
        found = logits(edgeq.pack(source.network, {}, record, edgeq.plan(record, "8bit")), batches(True))
        nats = divergence(reference.log_softmax(1), found.log_softmax(1)) / len(reference)
        noise = (found - reference).square().sum()
        row = {
            "observer": observer,
            "divergence": round(nats, 5),
            "agreement": round(100 * float((found.argmax(1) == reference.argmax(1)).double().mean()), 2),
            "sqnr_db": round(10 * float((reference.square().sum() / noise).log10()), 2),
        }
        click.echo(row)
        rows.append(row)
    body = {"model": model, "held_out_images": len(reference), "rows": rows, "environment": environment()}
    write_json(Path(__file__).parent / "results" / model / "observers.json", "observers", 1, body)


if __name__ == "__main__":
    main()
