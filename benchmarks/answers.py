"""Logits of an ONNX file, for a Python that has nothing but NumPy and ONNX Runtime; started by `other_cpus.py`.

    python benchmarks/answers.py INPUTS.npy FILE.onnx OUTPUT.npy

Takes the inputs one by one, on one thread, and prints what it ran on as JSON.
"""

from __future__ import annotations

import json
import platform
import sys

import numpy as np
import onnxruntime as ort


def main(inputs: str, file: str, output: str) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    np.save(output, np.concatenate([session.run(None, {name: x[None]})[0] for x in np.load(inputs)]))
    versions = {"python": platform.python_version(), "numpy": np.__version__, "onnxruntime": ort.__version__}
    print(json.dumps({"machine": platform.machine(), **versions}))


if __name__ == "__main__":
    main(*sys.argv[1:])
