"""Round one layer: to its own float weights, or to its float output given the inputs that it gets when quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Final

import numpy as np
import torch
from torch import Tensor

from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.numerics.weights import BitWidth, Float, QuantLayer, QuantTensor, starting_scales
from edgeq.rounding.gptq import DAMPING, Updates, best_rounding, gptq
from edgeq.rounding.moments import Moments, by_group, isotropic
from edgeq.rounding.ridge import Half, attenuated, chosen_ridge
from edgeq.rounding.steps import Steps, least_scales, stored_bias

ROUNDED: Final = tuple(BitWidth(bits) for bits in (8, 4, 2, 1))
"""What `round_alone` rounds to: enough to tell what other widths do."""

_DEVIATIONS: Final = 8  # assumed range of an output, in standard deviations


def round_alone(network: Network, node: Node, moments: Moments) -> dict[float, QuantLayer]:
    """Round a layer to some widths, `ROUNDED`, with all other layers in float: GPTQ, then bias correction.

    Args:
        network: the float network, on the CPU.
        node: one of its layers.
        moments: moments of the patches that the layer reads.

    Returns:
        A `QuantLayer` for each width in bits.
    """
    weight, bias = network.weight_and_bias(node.name)
    grouped = by_group(weight, node.attrs["groups"])
    mean, covariance = moments.means()[0].cpu(), moments.covariance().cpu()
    updates = Updates(covariance + DAMPING * isotropic(covariance))
    spread = _spread(covariance)
    power = float(((grouped @ covariance) * grouped).sum(2).max())
    steps = Steps(None, _DEVIATIONS * sqrt(power) / 255)  # the range of the output is not known yet
    least = least_scales(bias.numpy(), steps, weight[0].numel(), spread)
    made: dict[float, QuantLayer] = {}
    for width in ROUNDED:
        scale = np.maximum(starting_scales(weight.numpy(), width), least)
        index = gptq(grouped, updates, torch.from_numpy(scale).reshape(grouped.shape[:2]), width)
        quantized, values = _as_bytes(index, scale, weight, width)
        shift = ((grouped - values.reshape(grouped.shape)) @ mean[:, :, None]).reshape(-1)
        made[width.bits] = QuantLayer(quantized, stored_bias((bias + shift).numpy(), scale, steps))
    return made


def quantize_layer(
    network: Network, node: Node, halves: tuple[Half, Half], width: BitWidth, steps: Steps, threads: int = 1
) -> QuantLayer:
    """Round a layer so that its output for quantized inputs is close to its output in the float network.

    1. A ridge regression gives the float weights that do so best (`edgeq.rounding.ridge`).
    2. They are rounded with a small error of the output, rather than of the weights (`edgeq.rounding.gptq`).
    3. The bias absorbs the remaining error of the mean (bias correction, arXiv:1906.04721). It is rounded to the grid
       `input scale x weight scale` in which integer kernels add it, then to half precision, in which files store it.

    Args:
        network: the float network, on the CPU.
        node: one of its layers.
        halves: moments of the layer's inputs and wanted outputs, over two halves of the images; for each group, or for
            each output.
        width: bit width of the weights.
        steps: quantization steps of its input and output.
        threads: how many threads share the outputs; results do not depend on it.
    """
    weight, bias = network.weight_and_bias(node.name)
    seen = [half for half in halves if half.own.rows]
    hessians, targets = [half.own.covariance() for half in seen], [half.target.covariance() for half in seen]
    grouped = by_group(weight, len(hessians[0]))
    shares = [half.own.total / torch.stack([half.own.total for half in seen]).sum(0) for half in seen]

    def together(parts: Sequence[Tensor]) -> Tensor:
        weighed = [share.reshape(-1, *[1] * (part.dim() - 1)) * part for share, part in zip(shares, parts, strict=True)]
        return torch.stack(weighed).sum(0)

    ridge = chosen_ridge(grouped, hessians, targets)
    hessian, target = together(hessians), together(targets)
    diagonal = isotropic(hessian)
    wanted = target + ridge * attenuated(grouped, hessian, target) * diagonal[:, :1, :1]
    corrected = torch.linalg.solve(hessian + ridge * diagonal, wanted.transpose(1, 2)).transpose(1, 2)
    output, patch = (together([half.target.means()[k] for half in seen]) for k in (0, 1))

    def centred(weights: Tensor) -> Float:
        """Return the bias that gives the wanted mean output with these weights, float32 `[out]`."""
        return np.asarray((bias + (output - (weights @ patch[:, :, None])[:, :, 0]).reshape(-1)).numpy())

    least = torch.from_numpy(least_scales(centred(corrected), steps, weight[0].numel(), _spread(hessian)))
    start = torch.from_numpy(starting_scales(corrected.reshape(len(weight), -1).numpy(), width))
    hessian += DAMPING * diagonal
    start, least = (scales.reshape(grouped.shape[:2]) for scales in (start, least))
    index, scales = best_rounding(corrected, hessian, start, width, least, threads)
    scale = scales.reshape(-1).numpy()
    quantized, values = _as_bytes(index, scale, weight, width)
    return QuantLayer(quantized, stored_bias(centred(values.reshape(grouped.shape)), scale, steps))


def _spread(moments: Tensor) -> float:
    """Return the root of the summed variances of an output's inputs, in the group where it is largest.

    Args:
        moments: covariance of the inputs, `[groups, fan-in, fan-in]`.
    """
    return sqrt(float(moments.diagonal(dim1=1, dim2=2).sum(1).max()))


def _as_bytes(index: Tensor, scale: Float, weight: Tensor, width: BitWidth) -> tuple[QuantTensor, Tensor]:
    """Return rounded weights as a `QuantTensor`, and their float32 values."""
    quantized = QuantTensor(index.to(torch.uint8).numpy(), tuple(weight.shape), scale, width)
    return quantized, torch.from_numpy(quantized.dequantize())


def tensors_of_layer(layer: QuantLayer) -> dict[str, Tensor]:
    """Convert a layer to the tensors `packed`, `scale` and `bias`."""
    arrays = {"packed": layer.weight.data, "scale": layer.weight.scale, "bias": layer.bias}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def layer_of_tensors(tensors: Mapping[str, Tensor], shape: tuple[int, ...], width: BitWidth) -> QuantLayer:
    """Inverse of `tensors_of_layer`; `shape` is that of the weights."""
    packed, scale, bias = (tensors[name].numpy() for name in ("packed", "scale", "bias"))
    return QuantLayer(QuantTensor(packed, shape, scale, width), bias)
