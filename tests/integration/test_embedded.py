"""The network that ships with edgeq: it knows its characters, and all of it runs on integer kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import to_nearest

import edgeq
from edgeq.artifacts.record import CalibrationRecord
from edgeq.exporters.onnx.model import to_onnx
from edgeq.numerics.weights import BitWidth, QuantLayer, half_precision, packed_bytes
from edgeq.packed.pack import pack


@pytest.fixture(scope="module")
def source() -> edgeq.Source:
    return edgeq.load()


@pytest.fixture(scope="module")
def record(source: edgeq.Source) -> CalibrationRecord:
    images = edgeq.ImageSet.embedded("calib", 43)
    return edgeq.calibrate(source.network, (batch.images for batch in images.batches(source.preprocess, 8)))


def test_float_network_reads_at_least_97_percent(source: edgeq.Source) -> None:
    images = edgeq.ImageSet.embedded("test", 860)
    with torch.inference_mode():
        hits = [
            source.network(torch.from_numpy(batch.images)).argmax(1).numpy() == batch.labels
            for batch in images.batches(source.preprocess, 20)
        ]
    assert np.concatenate(hits).mean() >= 0.97


def test_shipped_weights_are_small() -> None:
    (path,) = (Path(edgeq.__file__).parent / "assets").glob("*.safetensors")
    assert path.stat().st_size <= 6_000_000


def rounded(source: edgeq.Source, record: CalibrationRecord, scheme: str) -> onnx.ModelProto:
    """The network with its weights rounded to nearest, as ONNX: what is stored does not depend on the rounding."""
    plan = edgeq.plan(record, scheme)
    layers = {}
    for item in plan.layers:
        weight, bias = source.network.weight_and_bias(item.layer.name)
        width = BitWidth(item.bits)
        layers[item.layer.name] = QuantLayer(to_nearest(weight, width), half_precision(bias.numpy()))
    return to_onnx(pack(source.network, layers, record, plan))


@pytest.mark.parametrize("scheme", ["8bit", "4bit", "2bit", "adaptive"])
def test_every_layer_runs_on_integer_kernels(
    scheme: str, source: edgeq.Source, record: CalibrationRecord, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # ORT warns that the optimized file fits this machine only
    model = rounded(source, record, scheme).SerializeToString()
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert found["QLinearConv"] == 53  # 52 convolutions and the classifier
    assert found["QLinearAdd"] == 10
    assert found["QLinearGlobalAveragePool"] == 1
    assert not found.keys() & {"Conv", "Gemm", "MatMul", "Add", "Gather", "Cast", "Clip"}
    assert found["DequantizeLinear"] == found["QuantizeLinear"] == 1


@pytest.mark.parametrize(("scheme", "bits"), [("4bit", 4), ("2bit", 2)])
def test_file_is_the_packed_bytes_and_little_more(
    scheme: str, bits: int, source: edgeq.Source, record: CalibrationRecord
) -> None:
    model = rounded(source, record, scheme)
    packed = {i.name: i.raw_data for i in model.graph.initializer if i.name.endswith(".packed")}
    assert len(packed) == 53
    assert sum(map(len, packed.values())) == sum(packed_bytes(layer.shape, BitWidth(bits)) for layer in record.layers)
    weights, channels = sum(item.weights for item in record.layers), sum(item.channels for item in record.layers)
    # 4 bytes a channel are scale and bias; 60 KB are the graph, the codebook and the names.
    assert len(model.SerializeToString()) <= weights * bits / 8 + 4 * channels + 60_000
