"""The outputs of models for the same images: by name, checked, and those of a model beside those of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ArtifactError
from edgeq.runtimes.jobs import Inputs, Outputs

_ONLY: Final = "output"
"""Name of the only output of a model that returns it without a name."""


def length(inputs: Inputs) -> int:
    """The number of images."""
    return min((len(array) for array in inputs.values()), default=0) if isinstance(inputs, Mapping) else len(inputs)


def named(name: str, made: NDArray[Any] | Outputs) -> Outputs:
    """The outputs of a model by name, checked to be numbers and finite."""
    outputs = made if isinstance(made, Mapping) else {_ONLY: made}
    for output, value in outputs.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            found = f"{value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
            raise ArtifactError(f"{name}: expected output {output} as an array of numbers, found {found}")
        if not np.isfinite(value).all():
            raise ArtifactError(f"{name}: expected finite numbers in output {output}, found NaN or infinity")
    return outputs


def class_scores(outputs: Outputs, n: int, classifies: bool | None, labelled: bool) -> str | None:
    """The name of the class scores `[n, classes]` among the reference's outputs; None where nothing is classified."""
    if classifies is False:
        return None
    found = [name for name, value in outputs.items() if value.ndim == 2 and len(value) == n]
    if len(found) == 1 and (classifies or labelled or len(outputs) == 1):
        return found[0]
    if classifies or labelled:
        shapes = ", ".join(str(list(value.shape)) for value in outputs.values())
        raise ArtifactError(f"the reference: expected logits [{n}, classes], found {shapes}")
    return None


def like(name: str, outputs: Outputs, expected: Outputs, logits: str | None) -> Outputs:
    """The outputs of a model by the names that the reference has for them.

    Raises:
        ArtifactError: other outputs, another number of dimensions, or logits of another shape.
    """
    if len(outputs) == len(expected) == 1:
        outputs = dict(zip(expected, outputs.values(), strict=True))
    if lacking := [output for output in expected if output not in outputs]:
        raise ArtifactError(
            f"{name}: expected the outputs {', '.join(expected)}, as the reference has, found {', '.join(outputs)} "
            f"without {lacking[0]}"
        )
    for output, value in expected.items():
        found = outputs[output]
        if found.ndim != value.ndim or (output == logits and found.shape != value.shape):
            what = "logits" if output == logits else f"output {output}"
            raise ArtifactError(f"{name}: expected {what} {list(value.shape)}, found {list(found.shape)}")
    return {output: outputs[output] for output in expected}
