"""Quantize convolutional classifiers to 8, 4 and 2 bits, pack them, and export files that stock runtimes run.

    source = edgeq.load()                                            # or edgeq.trace(module, (3, 224, 224))
    record = edgeq.calibrate(source.network, batches)
    plan = edgeq.plan(record, "adaptive")
    layers = edgeq.quantize(source.network, record, plan, batches)
    network = edgeq.pack(source.network, layers, record, plan)
    manifest = edgeq.export(network, Path("net.onnx"), record, plan, batches)

The names are listed in `__init__.pyi`. Each is imported when it is first used, so `import edgeq` costs nothing and
planning never imports torch.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("edgeq")
