"""Manifests: what they say of a file beyond what is written in them."""

from __future__ import annotations

from typing import cast

import pytest

from edgeq.artifacts.manifest import Manifest, exact_everywhere


@pytest.mark.parametrize(
    ("act_bits", "portable", "bits", "exact"),
    [
        (8, False, [4, 8], False), (8, True, [4, 8], True), (8, False, [4], True), (32, False, [4, 8], True),
    ],
)  # fmt: skip
def test_files_that_no_cpu_overflows_on(act_bits: int, portable: bool, bits: list[int], exact: bool) -> None:
    layers = [{"bits": width} for width in bits]
    manifest = cast(Manifest, {"act_bits": act_bits, "portable": portable, "layers": layers})
    assert exact_everywhere(manifest) is exact
