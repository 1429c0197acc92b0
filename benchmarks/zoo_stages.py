"""One network of `zoo.py` through its stages, in a process that may die of it.

Stages are `trace`, `export`, `static` (the file of ONNX Runtime's own quantizer) and `speed`. What each finds is a line
of the network's log (`zoo_log.py`). The stages behind one that fails are left out.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from peer_tools import static_file
from zoo_log import Log
from zoo_networks import SETS, images, network
from zoo_rounding import round_to_nearest

import edgeq
from edgeq.artifacts.manifest import Manifest
from edgeq.artifacts.record import CalibrationRecord
from edgeq.errors import EdgeqError, one_line
from edgeq.evaluation.latency import interleaved
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.numerics.weights import QuantLayer
from edgeq.rounding.steps import layer_steps, stored_bias
from edgeq.runtimes.jobs import Job, TensorType
from edgeq.runtimes.onnxruntime import session_of
from edgeq.runtimes.opening import open_model

STATIC: Final = "quantize_static"
CALIBRATION: Final = 2
"""Images that ranges are chosen from and sensitivities measured on; files are compared with PyTorch on one of them."""

_INTEGER: Final = {"QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger"}
_FLOAT: Final = {
    "Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul",
}  # fmt: skip
_WARM_UP: Final = 3

Rows = dict[str, Any]
"""What is known of every file, by scheme."""

Rounded = Mapping[str, Mapping[float, QuantLayer]]
"""Layers by name and width."""


class Subject:
    """A network on its way through the stages.

    Args:
        log: names it.
        runs: runs that are timed.
    """

    def __init__(self, log: Log, runs: int) -> None:
        self.log, self.set, self.runs = log, SETS[log.kind], runs
        self._stem = log.work / "exports" / log.stem

    def file(self, scheme: str) -> Path:
        return self._stem.with_name(f"{self._stem.name}-{scheme}.onnx")

    def told(self, error: Exception) -> str:
        """An error on one line, without the folder; of those that edgeq should not have let through, the type, too."""
        text = str(error) if isinstance(error, EdgeqError) else f"{type(error).__name__}: {one_line(error)}"
        return text.replace(f"{self._stem.parent}/", "")[:500]

    @cached_property
    def _traced(self) -> Network:
        return edgeq.trace(*network(self.log.kind, self.log.name))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input; known from when the network was traced."""
        return tuple(self.log.newest()["trace"]["found"]["shape"])

    def trace(self) -> Rows:
        graph = self._traced.graph
        return {"shape": graph.inputs[0].shape, "layers": len(graph.layers), "nodes": len(graph.nodes)}

    def export(self) -> Rows:
        """Every scheme's file, from one calibration. One may fail and the others not."""
        traced, batch = self._traced, images(self.shape, CALIBRATION)
        record, rounded = calibrated(traced, batch)
        rows: Rows = {}
        for scheme in self.set.schemes:
            plan = edgeq.plan(record, scheme)
            layers = {} if scheme == "fp32" else layers_of(traced, record, plan.bits, rounded)
            try:
                packed = edgeq.pack(traced, layers, record, plan) if layers else traced
                manifest = edgeq.export(packed, self.file(scheme), record, plan, [batch[:1]], force=True)
                rows[scheme] = _facts(manifest) | {"kernels": kernels(self.file(scheme))}
            except Exception as error:  # whatever a stage raises is its result
                rows[scheme] = {"failed": self.told(error)}
        return rows

    def static(self) -> Rows:
        file = self.file(STATIC)
        batch = images(self.shape, CALIBRATION)
        static_file(str(self.file("fp32")), str(file), (batch[i : i + 1] for i in range(len(batch))))
        return {STATIC: {"bytes": file.stat().st_size, "kernels": kernels(file)}}

    def speed(self) -> Rows:
        """Milliseconds of one image on one thread, all files taking turns."""
        files = {s: self.file(s) for s in (*self.set.schemes, STATIC) if self.file(s).exists()}
        rows: Rows = {scheme: {} for scheme in files}
        for runtime in self.set.runtimes:
            jobs: dict[str, Job] = {}
            for scheme, path in files.items():
                job = Job(runtime, str(path), (TensorType((1, *self.shape)),), 1)
                try:
                    open_model(job)
                    jobs[scheme] = job
                except EdgeqError as error:
                    rows[scheme][runtime] = {"failed": self.told(error)}
            samples = interleaved(list(jobs.values()), self.runs, _WARM_UP, lambda done: None)
            for scheme, times in zip(jobs, samples, strict=True):
                rows[scheme][runtime] = {"median_ms": float(np.median(times)), "samples_ms": times}
        return rows


def _facts(manifest: Manifest) -> dict[str, Any]:
    """Of a file: parity of its worst output, nodes in float and slow ones by their reason."""
    found = manifest["parity"]
    worst = min(output["optimized_within_eight_steps"] for output in found["outputs"].values())
    return {
        "bytes": manifest["bytes"],
        "bitops": manifest["bitops"],
        "parity": {
            "nodes_within_one_step": found["nodes_within_one_step"],
            "worst_channel": found["worst_channel"],
            "optimized_within_eight_steps": worst,
        },
        "in_float": Counter(manifest["in_float"].values()),
        "slow_kernels": Counter(manifest["slow_kernels"].values()),
    }


def calibrated(traced: Network, batch: NDArray[np.float32]) -> tuple[CalibrationRecord, Rounded]:
    """A record in seconds, and every layer rounded to nearest at every width."""
    rounded: dict[str, dict[float, QuantLayer]] = {}

    def kept(traced: Network, node: Node, moments: object) -> dict[float, QuantLayer]:
        return rounded.setdefault(node.name, round_to_nearest(traced, node))

    # Mixed plans tell how accurate a network stays, which random weights do not.
    few_plans = mock.patch("edgeq.calibration.sensitivity.PLANS", 2)
    with few_plans, mock.patch("edgeq.calibration.statistics.round_alone", kept):
        return edgeq.calibrate(traced, [batch], "minmax"), rounded


def layers_of(
    traced: Network, record: CalibrationRecord, bits: Mapping[str, float], rounded: Rounded
) -> dict[str, QuantLayer]:
    """Each layer at its width, with a bias that kernels represent."""
    found = {}
    for node in traced.graph.layers:
        layer = rounded[node.name][bits[node.name]]
        steps = layer_steps(traced.graph, node, record.activations, 8)
        found[node.name] = replace(layer, bias=stored_bias(layer.bias, layer.weight.scale, steps))
    return found


def kernels(path: Path) -> dict[str, int]:
    """How many convolutions and products of matrices ONNX Runtime runs on integers, how many in float; all nodes."""
    with tempfile.TemporaryDirectory() as folder:
        made = f"{folder}/optimized.onnx"
        session_of(str(path), threads=1, settings={"optimized_model_filepath": made})
        found = Counter(node.op_type for node in onnx.load(made).graph.node)
    return {
        "integer": sum(found[op] for op in _INTEGER),
        "float": sum(found[op] for op in _FLOAT),
        "nodes": found.total(),
    }


STAGES: Final[dict[str, Callable[[Subject], Rows]]] = {
    "trace": Subject.trace,
    "export": Subject.export,
    "static": Subject.static,
    "speed": Subject.speed,
}


def measure(log: Log, runs: int, stages: Sequence[str], errors: Path) -> None:
    """Stages of a network, to its log; what this process writes to stderr goes to a file."""
    with errors.open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    torch.set_num_threads(1)
    subject = Subject(log, runs)
    for stage in stages:
        began = time.monotonic()
        found: dict[str, Any]
        try:
            found = {"found": STAGES[stage](subject)}
        except Exception as error:  # whatever a stage raises is its result
            found = {"failed": subject.told(error)}
        log.add({"stage": stage, "seconds": round(time.monotonic() - began, 1), **found})
        if "failed" in found and stage != "static":
            return
