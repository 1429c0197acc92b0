"""Which measure of a layer's sensitivity foretells what a mix of widths does to a network?

    python benchmarks/sensitivity.py --model mobilenet_v2 --weights mobilenet_v2.safetensors --images FOLDER

FOLDER has `calib/`, of which 64 images are held out. Random plans, from the smallest file to that of 4 bits everywhere,
are rounded and the KL divergence of their class probabilities measured on the held-out images. Each predictor gives a
number to each layer at each width, from the other images; its sums over the layers are compared with the divergences.
Last, each predictor picks the plan that it likes best at some sizes. Everything goes to `benchmarks/results/MODEL/`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from shared import divergence

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.calibration.calibrate import SENSITIVITY_IMAGES
from edgeq.calibration.sample import Sample
from edgeq.calibration.sensitivity import Widths, rounded_network, sensitivities
from edgeq.calibration.statistics import Statistics
from edgeq.ir.batches import Images
from edgeq.ir.graph import INPUT
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.numerics.weights import packed_bytes
from edgeq.planning.allocate import Front, pareto_front
from edgeq.reports.figures import plot_predictors
from edgeq.rounding.gptq import Updates, gptq
from edgeq.rounding.layer import ROUNDED
from edgeq.rounding.moments import by_group, output_power
from edgeq.system.environment import environment

HELD_OUT = 64
DIRECT_IMAGES = 64
PLANS = 48
PICKS = (1.25, 1.4, 1.6, 1.8)  # sizes, in those of 2 bits everywhere
BITS = [width.bits for width in ROUNDED]

Table = NDArray[np.float64]  # [layers, widths]


def log_probabilities(network: Network, images: NDArray[np.float32]) -> torch.Tensor:
    with torch.inference_mode():
        logits = [
            network(*Images.of(network.graph, images[i : i + 8]).tensors(network)) for i in range(0, len(images), 8)
        ]
    return torch.cat(logits).double().log_softmax(1)


def from_gradients(network: Network, widths: Widths, images: NDArray[np.float32]) -> Table:
    found = sensitivities(network, network.tasks({}), widths, Images((images,)), torch.Generator().manual_seed(0))
    return np.array([list(found[name].values()) for name in widths])


def from_single_layers(network: Network, widths: Widths, images: NDArray[np.float32]) -> Table:
    """Round one layer and run the rest of the network again, for all layers, widths and batches."""
    table, count = np.zeros((len(widths), len(BITS))), min(DIRECT_IMAGES, len(images))
    rounded = {bits: rounded_network(network, {name: widths[name][bits] for name in widths}) for bits in BITS}
    nodes, rows = network.graph.nodes, list(widths)
    with torch.inference_mode():
        for start in range(0, count, 8):
            (x,) = Images.of(network.graph, images[start : min(start + 8, count)]).tensors(network)
            before, values = network(x).double().log_softmax(1), {INPUT: x}
            for i, node in enumerate(nodes):
                for column, bits in enumerate(BITS if node.name in widths else ()):
                    branch = dict(values)
                    for later in nodes[i:]:
                        step(rounded[bits] if later is node else network, later, branch)
                    after = branch[network.graph.outputs[0].value].double().log_softmax(1)
                    table[rows.index(node.name), column] += divergence(before, after) / count
                step(network, node, values)
    return table


def step(network: Network, node: Node, values: dict[str, torch.Tensor]) -> None:
    values[node.name] = network.run(node, [values[name] for name in node.inputs])
    for name in network.last_reads(node):
        del values[name]


def from_nearest(network: Network, widths: Widths, of: Callable[[str, torch.Tensor], float]) -> Table:
    """`of` the change that rounding to nearest makes to each layer's weights."""
    table = np.zeros((len(widths), len(BITS)))
    for row, (name, found) in enumerate(widths.items()):
        weight = network.weight_and_bias(name)[0]
        for column, layer in enumerate(found.values()):
            flat, scale = weight.reshape(1, len(weight), -1), torch.from_numpy(layer.weight.scale)[None]
            index = gptq(flat, Updates(torch.eye(flat.shape[2])[None]), scale, layer.weight.width)
            nearest = replace(layer.weight, data=index.to(torch.uint8).numpy())
            table[row, column] = of(name, torch.from_numpy(nearest.dequantize()) - weight)
    return table


def relative_output_error(network: Network, statistics: Statistics) -> Callable[[str, torch.Tensor], float]:
    groups = {node.name: int(node.attrs.get("groups", 1)) for node in network.graph.layers}

    def of(name: str, change: torch.Tensor) -> float:
        covariance = statistics.moments[name].covariance()
        powers = [
            output_power(by_group(part, groups[name]), covariance)
            for part in (change, network.weight_and_bias(name)[0])
        ]
        return powers[0] / powers[1]

    return of


def random_plans(sizes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Columns for each layer: the best for importances drawn at random, at sizes in equal steps."""
    generator = np.random.default_rng(0)
    smallest, largest = sizes.min(axis=1).sum() * 1.03, sizes[:, BITS.index(4)].sum() * 1.03
    for size in np.linspace(smallest, largest, PLANS):
        importance = generator.lognormal(0, 2, (len(sizes), 1))
        yield picked(pareto_front(sizes, importance * 4.0 ** -np.array(BITS)), size)


def picked(front: Front, size: float) -> NDArray[np.int64]:
    """The widths of least damage within a size."""
    return np.array(front.choices(int(np.searchsorted(front.costs, size, side="right")) - 1))


def ranks(values: Table) -> Table:
    return np.argsort(np.argsort(values)).astype(float)


def correlation(a: Table, b: Table) -> float:
    return round(float(np.corrcoef(a, b)[0, 1]), 4)


def gathered(
    source: edgeq.Source, folder: Path, samples: int
) -> tuple[Statistics, NDArray[np.float32], NDArray[np.float32]]:
    """Statistics of the images, some of these images, and the held-out ones."""
    chosen = edgeq.ImageSet.folder(folder, samples, 0)
    network, every = source.network, len(chosen) // HELD_OUT
    statistics, sample = Statistics(network, 0), Sample(SENSITIVITY_IMAGES, [network.graph.image.shape], 0)
    held_out: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for i, batch in enumerate(chosen.batches(source.preprocess, 1)):
            if i % every == 0 and len(held_out) < HELD_OUT:
                held_out.append(batch.images)
                continue
            statistics.add(*Images.of(network.graph, batch.images).tensors(network))
            sample.add(Images((batch.images,)))
    return statistics, sample.images().arrays[0], np.concatenate(held_out)


def predictors(
    network: Network, statistics: Statistics, widths: Widths, images: NDArray[np.float32]
) -> Iterator[tuple[dict[str, Any], Table]]:
    """A description and the numbers of each; the first is the one that edgeq uses."""
    output_error = relative_output_error(network, statistics)
    candidates: dict[str, Callable[[], Table]] = {
        "gradients, second order": lambda: from_gradients(network, widths, images),
        "divergence, layer by layer": lambda: from_single_layers(network, widths, images),
        "error of the layer's output": lambda: from_nearest(network, widths, output_error),
        "error of the weights": lambda: from_nearest(network, widths, lambda _, change: float(change.square().sum())),
    }
    for name, measure in candidates.items():
        began = time.monotonic()
        table = measure()
        yield {"name": name, "seconds": round(time.monotonic() - began, 1)}, table


@click.command()
@click.option("--model", default="mobilenet_v2")
@click.option("--weights", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--samples", default=1000)
@click.option("--output", type=click.Path(path_type=Path), default=None)
def main(model: str, weights: Path, images: Path, samples: int, output: Path | None) -> None:
    torch.set_num_threads(1)
    source = edgeq.load(model, str(weights))
    network = source.network
    statistics, some, held_out = gathered(source, images / "calib", samples)
    widths, names = statistics.rounded(), [node.name for node in network.graph.layers]
    before, every_layer = log_probabilities(network, held_out), np.arange(len(names))
    sizes = np.array([[packed_bytes(q.weight.shape, q.weight.width) for q in widths[n].values()] for n in names])

    def measured(plan: NDArray[np.int64]) -> dict[str, Any]:
        chosen = rounded_network(network, {n: widths[n][BITS[c]] for n, c in zip(names, plan, strict=True)})
        found = divergence(before, log_probabilities(chosen, held_out)) / len(held_out)
        return {"weight_bytes": int(sizes[every_layer, plan].sum()), "bits": "".join(str(BITS[c]) for c in plan),
                "divergence": found}  # fmt: skip

    plans = list(random_plans(sizes))
    rows = [measured(plan) for plan in plans]
    divergences = np.array([row["divergence"] for row in rows])
    scores, picks = [], []
    for about, table in predictors(network, statistics, widths, some):
        sums = np.array([table[every_layer, plan].sum() for plan in plans])
        for row, predicted in zip(rows, sums, strict=True):
            row.setdefault("predicted", {})[about["name"]] = float(predicted)
        about |= {"spearman": correlation(ranks(sums), ranks(divergences)),
                  "log_pearson": correlation(np.log(sums), np.log(divergences))}  # fmt: skip
        click.echo(about)
        scores.append(about)
        front = pareto_front(sizes, table)
        for times in PICKS:
            picks.append({"predictor": about["name"], **measured(picked(front, times * sizes.min(axis=1).sum()))})
            click.echo(picks[-1])
    body = {
        "network": {"model": model, "weights": weights.name, "sha256": source.sha256, "classes": source.classes},
        "images": {"held_out": len(held_out), "gradients": len(some), "layer_by_layer": DIRECT_IMAGES},
        "predictors": scores,
        "plans": rows,
        "picks": picks,
        "environment": environment(),
    }
    output = output or Path(__file__).parent / "results" / model
    write_json(output / "sensitivity.json", "sensitivity", 1, body)
    plot_predictors(body, output / "sensitivity.png")


if __name__ == "__main__":
    main()
