"""What tests of the native engine share: whether it was compiled, and small networks in packed form."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from nets import SHAPE, images, quantized, randomized
from torch import Tensor, nn

from edgeq.calibration.calibrate import calibrate
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Network
from edgeq.lowering.lower import lower
from edgeq.native.library import is_compiled
from edgeq.native.program import Program
from edgeq.packed.pack import pack
from edgeq.planning.plan import plan
from edgeq.planning.recipe import Recipe
from edgeq.quantization.quantize import quantize

compiled = pytest.mark.skipif(
    not is_compiled(),
    reason="the native engine was not compiled: no C compiler when edgeq was installed",
)


class Moved(nn.Module):
    """Pools, a border, a concatenation, groups in another order, and an activation that becomes a table."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(16, 12, 3, groups=4)
        self.last = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(nn.functional.avg_pool2d(self.stem(x).relu(), 2))
        x = torch.cat([nn.functional.max_pool2d(x, 3, 1, 1), x], 1)
        x = nn.functional.pad(x.reshape(-1, 2, 8, 4, 4).transpose(1, 2).reshape(-1, 16, 4, 4), (1, 0, 0, 1))
        y: Tensor = self.last(self.grouped(x).relu().mean((2, 3)))
        return y


@cache
def packed(name: str, scheme: str = "4bit") -> Network:
    """`moved`, or one of `nets.MODULES`; it is shared, do not change it."""
    return packed_of(Moved(), scheme) if name == "moved" else quantized(name, scheme).packed


def packed_of(module: nn.Module, scheme: str) -> Network:
    """Run the stages on a module, with random weights that no CPU overflows on."""
    network, batches = trace(randomized(module), SHAPE), [images(8, 1), images(8, 2)]
    record = calibrate(network, batches)
    chosen = plan(record, Recipe(scheme, reduce_range=True))
    return pack(network, quantize(network, record, chosen, batches), record, chosen)


@cache
def program(name: str = "residual") -> Program:
    """The program of a network with weights of 4 bits; it is shared, do not change it."""
    return lower(packed(name))
