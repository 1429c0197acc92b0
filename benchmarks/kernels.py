"""Where ONNX Runtime's time goes: microseconds of one run by kind of node, one thread, batch 1.

    python benchmarks/kernels.py FILE.onnx...        # writes results/kernels.json

The files take turns. Profiling makes a run a little slower than it is in `peers.py`; what kernels cost beside each
other is the point here.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import onnx

from edgeq.artifacts.files import write_json
from edgeq.evaluation.latency import BenchModel, from_path
from edgeq.runtimes.jobs import random_inputs
from edgeq.runtimes.onnxruntime import session_of
from edgeq.system.environment import environment

ROUNDS: Final = 10
RUNS: Final = 20


def kinds(file: Path) -> dict[str, str]:
    """Of every convolution, by its name."""
    convolutions = [node for node in onnx.load(file).graph.node if node.op_type == "Conv"]
    groups = {node.name: next((a.i for a in node.attribute if a.name == "group"), 1) for node in convolutions}
    named = {name: "other depthwise" if group > 1 else "pointwise" for name, group in groups.items()}
    first, second = list(named)[:2]
    return named | {first: "first convolution", second: "second convolution"}


def profile(model: BenchModel) -> dict[str, float]:
    """Microseconds of one run by kind of node, the middle of some."""
    job = model.job("onnxruntime", 1, 1)
    (x,), known = random_inputs(job), kinds(model.path)
    with tempfile.TemporaryDirectory() as folder:
        session = session_of(
            job.file,
            threads=job.threads,
            settings={"enable_profiling": True, "profile_file_prefix": f"{folder}/profile"},
        )
        for _ in range(RUNS):
            session.run(None, {session.get_inputs()[0].name: x})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            name = re.sub(r"(_token_\d+)?_kernel_time$", "", event["name"])
            times[name, event["args"]["op_name"]].append(event["dur"])
    total: defaultdict[str, float] = defaultdict(float)
    for (name, op), found in times.items():
        total[known.get(name, op)] += statistics.median(found)
    return dict(total)


def main(*files: str) -> None:
    models = [from_path(Path(file)) for file in files]
    found: dict[str, list[dict[str, float]]] = {model.path.stem: [] for model in models}
    for _ in range(ROUNDS):
        for model in models:
            found[model.path.stem].append(profile(model))
    rows: dict[str, Any] = {
        name: {kind: statistics.median(one[kind] for one in rounds) for kind in rounds[0]}
        for name, rounds in found.items()
    }
    output = Path(__file__).parent / "results" / "kernels.json"
    write_json(output, "kernels", 1, {"environment": environment(), "microseconds": rows})


if __name__ == "__main__":
    main(*sys.argv[1:])
