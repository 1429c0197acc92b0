"""Copies between strides do what PyTorch's views do."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from edgeq.lowering.moves import Move, in_memory, move, places

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple)


def copied(found: Move, source: Tensor, size: int) -> Tensor:
    made = torch.zeros(size, dtype=source.dtype)
    for at in np.ndindex(found.sizes):
        here = found.start + int(np.dot(at, found.strides_from))
        made[found.end + int(np.dot(at, found.strides_to))] = source[here]
    return made


@given(SHAPES, st.data())
def test_slices_and_permutations_are_regular(shape: tuple[int, ...], data: st.DataObject) -> None:
    dim = data.draw(st.integers(1, len(shape)))
    start = data.draw(st.integers(0, shape[dim - 1] - 1))
    length = data.draw(st.integers(1, shape[dim - 1] - start))
    dims = [0, *data.draw(st.permutations(range(1, len(shape) + 1)))]

    def view(x: Tensor) -> Tensor:
        return x.narrow(dim, start, length).permute(dims)

    sources = in_memory(view(places(shape)))
    found = move(sources, np.arange(len(sources)))
    assert found is not None
    values = torch.randn(1, *shape)
    expected = in_memory(view(values))
    assert np.array_equal(copied(found, torch.from_numpy(in_memory(values)), len(sources)).numpy(), expected)


@given(SHAPES, st.integers(2, 3))
def test_repeated_values_are_regular(shape: tuple[int, ...], times: int) -> None:
    values = torch.randn(1, *shape)
    sources = in_memory(places(shape).repeat_interleave(times, len(shape)))
    found = move(sources, np.arange(len(sources)))
    assert found is not None
    expected = in_memory(values.repeat_interleave(times, len(shape)))
    assert np.array_equal(copied(found, torch.from_numpy(in_memory(values)), len(sources)).numpy(), expected)


@given(st.permutations(range(5)))
def test_what_is_in_no_order_is_no_move(order: list[int]) -> None:
    steps = np.diff(order)
    assume((steps != steps[0]).any())
    assert move(np.array(order), np.arange(5)) is None


def test_what_stays_in_its_order_stays_where_it_is() -> None:
    found = move(np.arange(24), np.arange(24))
    assert found is not None
    assert found.as_it_is
