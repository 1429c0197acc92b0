"""Quantize convolutional classifiers to 8, 4 and 2 bits, pack them, and export files that stock runtimes run.

    source = edgeq.load()                                            # or edgeq.trace(module, (3, 224, 224))
    record = edgeq.calibrate(source.network, batches)
    plan = edgeq.plan(record, "adaptive")
    layers = edgeq.quantize(source.network, record, plan, batches)
    network = edgeq.pack(source.network, layers, record, plan)
    manifest = edgeq.export(network, Path("net.onnx"), record, plan, batches)

Each name is imported when it is first used, so `import edgeq` costs nothing and planning never imports torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgeq.bench import bench
    from edgeq.calibrate import calibrate
    from edgeq.errors import EdgeqError
    from edgeq.evaluate import evaluate, onnx_runner
    from edgeq.export import export
    from edgeq.images import ImageSet
    from edgeq.models import Source, load
    from edgeq.modules import load_packed
    from edgeq.modules import packed_network as pack
    from edgeq.plan import PrecisionPlan, plan
    from edgeq.preprocess import Preprocess
    from edgeq.record import CalibrationRecord
    from edgeq.rounding import quantize
    from edgeq.trace import trace
    from edgeq.tune import tune

    __version__: str

__all__ = [
    "CalibrationRecord",
    "EdgeqError",
    "ImageSet",
    "PrecisionPlan",
    "Preprocess",
    "Source",
    "__version__",
    "bench",
    "calibrate",
    "evaluate",
    "export",
    "load",
    "load_packed",
    "onnx_runner",
    "pack",
    "plan",
    "quantize",
    "trace",
    "tune",
]

_HOMES: Final = {
    "CalibrationRecord": ("edgeq.record", "CalibrationRecord"),
    "EdgeqError": ("edgeq.errors", "EdgeqError"),
    "ImageSet": ("edgeq.images", "ImageSet"),
    "PrecisionPlan": ("edgeq.plan", "PrecisionPlan"),
    "Preprocess": ("edgeq.preprocess", "Preprocess"),
    "Source": ("edgeq.models", "Source"),
    "bench": ("edgeq.bench", "bench"),
    "calibrate": ("edgeq.calibrate", "calibrate"),
    "evaluate": ("edgeq.evaluate", "evaluate"),
    "export": ("edgeq.export", "export"),
    "load": ("edgeq.models", "load"),
    "load_packed": ("edgeq.modules", "load_packed"),
    "onnx_runner": ("edgeq.evaluate", "onnx_runner"),
    "pack": ("edgeq.modules", "packed_network"),
    "plan": ("edgeq.plan", "plan"),
    "quantize": ("edgeq.rounding", "quantize"),
    "trace": ("edgeq.trace", "trace"),
    "tune": ("edgeq.tune", "tune"),
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name == "__version__":
        return version("edgeq")
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeq' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    found: object = getattr(import_module(module), attribute)
    return found


class _Package(ModuleType):
    """Keeps `edgeq.plan` the function: importing the submodule `edgeq.plan` would put the module in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
