"""The names that the package exports."""

from __future__ import annotations

from importlib.metadata import version
from types import FunctionType, ModuleType

import pytest

import edgeq


def test_exported_names() -> None:
    assert edgeq.__all__ == [
        "CalibrationRecord", "EdgeqError", "ImageSet", "PrecisionPlan", "Preprocess", "Recipe", "Source", "bench",
        "calibrate", "evaluate", "export", "export_c", "export_web", "load", "load_packed", "onnx_runner", "pack",
        "place_of", "plan", "preflight", "quantize", "to_native", "trace", "tune",
    ]  # fmt: skip


@pytest.mark.parametrize("name", edgeq.__all__)
def test_a_name_is_a_class_or_a_function_even_where_a_module_has_the_same(name: str) -> None:
    assert isinstance(getattr(edgeq, name), type | FunctionType)
    assert not isinstance(getattr(edgeq, name), ModuleType)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="No edgeq attribute quantise"):
        _ = edgeq.quantise  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_distribution() -> None:
    assert edgeq.__version__ == version("edgeq")
