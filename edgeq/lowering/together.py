"""Which steps are computed together, row by row, so that the maps between them never exist as a whole.

A block of a mobile network widens a map, filters it, and narrows it again. Row by row, the wide map takes as many rows
as the filter is high. In return, the weights of all of its steps are decoded before the first row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from edgeq.lowering.draft import Draft
from edgeq.native.program import TOGETHER, TWO_VALUES, Flag, Kind, Step, up_to

_WORTH: Final = 4  # bytes of maps for each of decoded weights
_LAYERS: Final = (Kind.CONVOLUTION, Kind.DEPTHWISE)
_BY_ROWS: Final = (*_LAYERS, Kind.ADD, Kind.MULTIPLY, Kind.TABLE)


def together(drafts: Sequence[Draft], sizes: list[int], threads: int) -> None:
    """Mark groups of steps, and cut what each thread keeps of the maps between them.

    Steps and sizes of slots are changed.
    """
    start = 0
    while start < len(drafts):
        end = _chain(drafts, start)
        while end - start > 1 and not _worth(drafts[start:end], sizes):
            end -= 1
        if end - start > 1:
            _cut([draft.step for draft in drafts[start:end]], sizes, threads)
            for draft in drafts[start:end]:
                _decode_all(draft)
        start = end


def _chain(drafts: Sequence[Draft], start: int) -> int:
    """The end of a chain in which each step alone reads the rows that the one before has made."""
    end = start + 1
    while end < len(drafts) and end - start < TOGETHER and drafts[end - 1].step.kind in _BY_ROWS:
        before, step = drafts[end - 1].step, drafts[end].step
        readers = [d for d in drafts if before.to in _read(d.step)]
        alone = len(readers) == 1 and readers[0] is drafts[end] and step.kind in _BY_ROWS
        in_rows = step.rows == before.out_rows  # else a reshape is between them
        in_rows &= before.to != step.other or step.kind not in TWO_VALUES or step.stride_rows > 0
        floats = (before.flags | step.flags) & Flag.TO_FLOAT
        if not (alone and in_rows and step.out_rows > 1 and not floats):
            break
        end += 1
    return end if drafts[start].step.kind in _BY_ROWS else start + 1


def _read(step: Step) -> list[int]:
    return [getattr(step, member) for member in step.slots if member != "to"]


def _worth(drafts: Sequence[Draft], sizes: Sequence[int]) -> bool:
    """Whether the maps between steps are large beside their weights."""
    maps = sum(sizes[draft.step.to] for draft in drafts[:-1])
    return maps > _WORTH * sum(draft.all_decoded for draft in drafts)


def _cut(steps: Sequence[Step], sizes: list[int], threads: int) -> None:
    steps[0].together = len(steps)
    for before, step in pairwise(steps):
        extent = (step.kernel_rows - 1) * step.dilation_rows + 1 if step.kind in _LAYERS else 1
        kept = min(extent, before.out_rows)
        if kept < before.out_rows:
            sizes[before.to] = threads * up_to(sizes[before.to] // before.out_rows * kept)
        before.to_kept = kept
        if step.from_ == before.to:
            step.from_kept = kept
        if before.to == step.other and step.kind in TWO_VALUES:
            step.other_kept = kept


def _decode_all(draft: Draft) -> None:
    draft.step.flags |= Flag.ROWS
    draft.scratch += draft.all_decoded - draft.step.decoded
    draft.step.decoded = draft.all_decoded
