"""Other networks: what becomes integer kernels, what agrees with PyTorch, what it gains, beside quantize_static.

    python benchmarks/zoo.py --work DIR

Networks of torchvision with random weights of their usual spread, and batch norms with the statistics of images that
edgeq draws: what can be converted, and how fast it is, does not depend on training. Files that are in DIR already are
not made again. Everything goes to `benchmarks/results/zoo.json`, and the speeds to `zoo.png`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import onnx
import torch
from matplotlib.figure import Figure
from peer_tools import Case
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.calibration.calibrate import Statistics
from edgeq.data import glyphs
from edgeq.errors import EdgeqError
from edgeq.evaluation.latency import interleaved
from edgeq.frontends import presets
from edgeq.ir.batches import checked_batch
from edgeq.reports.figures import COLOURS
from edgeq.rounding.steps import layer_steps, stored_bias
from edgeq.runtimes.jobs import Job
from edgeq.runtimes.onnxruntime import session_of
from edgeq.runtimes.opening import open_model
from edgeq.system.environment import environment

NETWORKS: Final = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0",
    "shufflenet_v2_x1_0", "mnasnet1_0", "regnet_y_400mf", "densenet121", "googlenet", "squeezenet1_1", "convnext_tiny",
)  # fmt: skip
SCHEMES: Final = ("fp32", "8bit", "4bit", "2bit", "adaptive")
STATIC: Final = "quantize_static"
SHOWN: Final = ("8bit", "4bit", STATIC)
RUNTIMES: Final = ("onnxruntime", "openvino")
IMAGES: Final = 16
SHAPE: Final = (3, 224, 224)
INTEGER: Final = {"QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger"}
FLOAT: Final = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "NhwcFusedConv", "FusedMatMul"}
WARM_UP: Final = 3


def draw(folder: Path) -> None:
    """Images for calibration."""
    folder.mkdir(exist_ok=True)
    for index in range(IMAGES):
        Image.fromarray(glyphs.render("calib", index)).resize((256, 256)).save(folder / f"{index}.png")


def weights(name: str, images: Path, path: Path) -> None:
    """Weights that keep the variance of what they read; batch norms see some images."""
    torch.manual_seed(0)
    module = models.get_model(name, weights=None, **({"init_weights": False} if name == "googlenet" else {}))
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the mean over what it sees
    batch = np.stack([presets.usual(name)(Image.open(file)) for file in sorted(images.iterdir())])
    with torch.no_grad():
        module.train()(torch.from_numpy(batch))
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, path)


def exported(name: str, state: Path, images: Path, work: Path) -> dict[str, Path]:
    """Every scheme's file, from one calibration."""
    files = {scheme: work / "exports" / f"{name}-{scheme}.onnx" for scheme in SCHEMES}
    if all(path.exists() for path in files.values()):
        return files
    source = edgeq.load(name, str(state))
    network = source.network
    found = edgeq.ImageSet.folder(images, None, 0)
    batches = [batch.images for batch in found.batches(source.preprocess, 8)]
    sources = {"network": source.to_dict(), "preprocess": source.preprocess.to_dict(), "data": found.to_dict()}
    record = edgeq.calibrate(network, batches, "minmax", sources=sources)
    # As calibration rounds them. `edgeq.quantize` does it better, which takes minutes and changes nothing here.
    statistics = Statistics(network, 0)
    with torch.inference_mode():
        for batch in batches:
            statistics.add(checked_batch(network, batch))
    rounded = statistics.rounded()
    steps = {node.name: layer_steps(network.graph, node, record.activations, 8) for node in network.graph.layers}
    for scheme, path in files.items():
        plan = edgeq.plan(record, scheme)
        chosen = {name: rounded[name][bits] for name, bits in plan.bits.items() if scheme != "fp32"}
        layers = {
            name: replace(layer, bias=stored_bias(layer.bias, layer.weight.scale, steps[name]))
            for name, layer in chosen.items()
        }
        packed = edgeq.pack(network, layers, record, plan) if layers else network
        edgeq.export(packed, path, record, plan, batches[:1])
    return files


def static(name: str, weights: Path, images: Path, work: Path) -> Path:
    """The file that ONNX Runtime's own quantizer makes of the float one."""
    path = work / "exports" / f"{name}-{STATIC}.onnx"
    if not path.exists():
        case = work / f"{name}.case"
        float_file = str(work / "exports" / f"{name}-fp32.onnx")
        case.write_text(json.dumps(asdict(Case(name, str(weights), str(images), float_file, str(path)))))
        tools = str(Path(__file__).with_name("peer_tools.py"))
        subprocess.run([sys.executable, tools, "make", STATIC, str(case)], check=True, capture_output=True)
    return path


def kernels(path: Path) -> dict[str, int]:
    """How many convolutions and products of matrices ONNX Runtime runs on integers, how many in float; all nodes."""
    with tempfile.TemporaryDirectory() as folder:
        made = f"{folder}/optimized.onnx"
        session_of(str(path), threads=1, settings={"optimized_model_filepath": made})
        found = Counter(node.op_type for node in onnx.load(made).graph.node)
    return {
        "integer": sum(found[op] for op in INTEGER),
        "float": sum(found[op] for op in FLOAT),
        "nodes": found.total(),
    }


def latencies(files: dict[str, Path], runs: int, runtime: str) -> dict[str, dict[str, Any]]:
    """Milliseconds of one run on one thread, all files of a network taking turns."""
    jobs: dict[str, Job] = {}
    for name, path in files.items():
        job = Job(runtime, str(path), (1, *SHAPE), 1)
        try:
            open_model(job)
            jobs[name] = job
        except EdgeqError as error:
            click.echo(f"{name} in {runtime}: {error}", err=True)
    samples = interleaved(list(jobs.values()), runs, WARM_UP, lambda done: None)
    return {
        name: {"median_ms": float(np.median(times)), "samples_ms": times}
        for name, times in zip(jobs, samples, strict=True)
    }


def measured(name: str, work: Path, images: Path, runs: int) -> dict[str, Any]:
    """One network through all stages and schemes."""
    state = work / f"{name}.safetensors"
    if not state.exists():
        weights(name, images, state)
    files, rows = exported(name, state, images, work), {}
    for scheme, path in files.items():
        manifest = json.loads(path.with_suffix(".json").read_text())
        rows[scheme] = {key: manifest[key] for key in ("bytes", "bitops", "in_float", "parity")}
    try:
        files[STATIC] = static(name, state, images, work)
        rows[STATIC] = {"bytes": files[STATIC].stat().st_size}
    except subprocess.CalledProcessError as error:
        rows[STATIC] = {"failed": error.stderr.decode().strip().rpartition("\n")[2]}
    for scheme, path in files.items():
        rows[scheme]["kernels"] = kernels(path)
    for runtime in RUNTIMES:
        for scheme, latency in latencies(files, runs, runtime).items():
            rows[scheme][runtime] = latency
    return rows


def figure(body: dict[str, Any]) -> Figure:
    """How much faster than float the networks are, the fastest on top; a panel for each runtime."""
    drawn = Figure(figsize=(16, 9), layout="constrained", dpi=120)
    panels = drawn.subplots(1, len(RUNTIMES), sharey=True)
    found = {name: rows for name, rows in body["networks"].items() if "failed" not in rows}

    def speed(name: str, scheme: str, runtime: str) -> float:
        rows = found[name]
        return rows["fp32"][runtime]["median_ms"] / rows[scheme][runtime]["median_ms"] if runtime in rows[scheme] else 0

    names = sorted(found, key=lambda name: speed(name, "8bit", RUNTIMES[0]))
    places = np.arange(len(names))
    for axes, runtime, title in zip(panels, RUNTIMES, ("ONNX Runtime", "OpenVINO, float in bfloat16"), strict=True):
        for i, scheme in enumerate(SHOWN):
            colour = COLOURS["fp32" if scheme == STATIC else scheme]
            label = scheme if scheme == STATIC else f"edgeq {scheme}"
            lengths = [speed(name, scheme, runtime) for name in names]
            axes.barh(places + 0.27 * (1 - i), lengths, 0.25, color=colour, label=label)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_title(title, fontsize=16)
        axes.set_xlabel("times as fast as the float file", fontsize=13)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(places, names, fontsize=13)
    panels[0].legend(fontsize=13, frameon=False, loc="lower right")
    drawn.suptitle("Other networks, one thread", fontsize=20, fontweight="bold")
    return drawn


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder for models; kept.")
@click.option("--network", "networks", multiple=True, default=NETWORKS)
@click.option("--runs", default=30)
def main(work: Path, networks: tuple[str, ...], runs: int) -> None:
    work = work.absolute()
    images = work / "images"
    (work / "exports").mkdir(parents=True, exist_ok=True)
    draw(images)
    found: dict[str, Any] = {}
    for name in networks:
        click.echo(name, err=True)
        try:
            found[name] = measured(name, work, images, runs)
        except EdgeqError as error:
            found[name] = {"failed": str(error)}
            click.echo(f"{name}: {error}", err=True)
    body = {"environment": environment(), "images": IMAGES, "networks": found}
    results = Path(__file__).parent / "results"
    write_json(results / "zoo.json", "zoo", 1, body)
    figure(body).savefig(results / "zoo.png")


if __name__ == "__main__":
    main()
