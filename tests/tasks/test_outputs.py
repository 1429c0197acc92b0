from __future__ import annotations

import re

import pytest
import torch

from edgeq.errors import ArtifactError
from edgeq.tasks import NO_CHANNELS, Channels
from edgeq.tasks.classification import Classification
from edgeq.tasks.outputs import Tasks, tasks_of
from edgeq.tasks.regression import Regression, as_divisor

BOXES = Regression(as_divisor((2,), (0,), [2.0, 10.0]))
BOTH = Tasks([BOXES, Classification()])
BOXES_FIRST = (torch.tensor([[4.0, 30.0], [2.0, 10.0]]), torch.tensor([[0.0, 0.0, 1.0], [2.0, 0.0, 0.0]]))
OTHERS = (torch.tensor([[1.0, 3.0], [2.0, 0.0]]), torch.tensor([[0.0, 5.0, 1.0], [2.0, 0.0, 0.0]]))


def test_each_output_is_converted_by_its_own_task() -> None:
    boxes, logits = BOTH.answers(BOXES_FIRST)
    assert boxes.tolist() == [[2, 3], [1, 1]]
    assert torch.equal(logits, BOXES_FIRST[1])
    assert BOTH.shapes([(2,), (1, 4, 4)]) == ((2,), (2, 4, 4))  # one logit is one of two classes


@pytest.mark.parametrize("reduction", ["sum", "batchmean"])
def test_divergences_add_up(reduction: str) -> None:
    assert reduction in ("sum", "batchmean")
    pairs = zip(BOTH.members, OTHERS, BOXES_FIRST, strict=True)
    each = [float(task.divergence(found, expected, reduction)) for task, found, expected in pairs]  # type: ignore[arg-type]
    assert all(part > 0 for part in each)
    assert float(BOTH.divergence(OTHERS, BOXES_FIRST, reduction)) == pytest.approx(sum(each))  # type: ignore[arg-type]
    assert float(BOTH.divergence(OTHERS, OTHERS, reduction)) == 0  # type: ignore[arg-type]


def test_directions_are_in_the_order_of_the_outputs() -> None:
    signs = torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0, -1.0], [-1.0, 1.0, 1.0]])
    others = tuple(-sign.flip(1) for sign in signs)
    drawn = BOTH.random_direction(BOXES_FIRST, signs)
    first, second = BOTH.random_directions(BOXES_FIRST, signs, others)
    for i, task in enumerate(BOTH.members):
        assert torch.equal(drawn[i], task.random_direction(BOXES_FIRST[i], signs[i]))
        expected = task.random_directions(BOXES_FIRST[i], signs[i], others[i])
        for found, wanted in zip((first, second), expected, strict=True):
            assert torch.equal(found[i], wanted)


def test_what_is_lost_is_the_mean_over_outputs_image_by_image() -> None:
    """All of the boxes of the first image and half of the variation of the second's; no class is another."""
    trust = BOTH.trust((torch.zeros(2, 2), torch.tensor([[9.0, 0.0], [9.0, 0.0]])))
    answers = torch.tensor([[3.0, 3.0], [1.0, 0.0]]), torch.tensor([[5.0, 0.0], [5.0, 0.0]])
    torch.testing.assert_close(BOTH.loss(trust, answers), torch.tensor([0.5, 0.25]))


def test_positions_of_a_map_count_once_an_image_beside_other_outputs() -> None:
    """At one of four positions another class is found, of a probability of nearly 0."""
    maps = torch.zeros(1, 2, 2, 2)
    maps[:, 0] = 20
    moved = maps.clone()
    moved[0, 1, 0, 0] = 30
    trust = BOTH.trust((torch.zeros(1, 2), maps))
    torch.testing.assert_close(BOTH.loss(trust, (torch.zeros(1, 2), moved)), torch.tensor([1 / 8]))


def test_of_one_output_every_answer_is_lost_by_itself() -> None:
    alone, maps = Tasks([Classification()]), torch.zeros(2, 3, 4, 5)
    assert alone.loss(alone.trust((maps,)), (maps,)).shape == (2 * 4 * 5,)


# --- from a record --------------------------------------------------------------------------------------------------


def test_tasks_of_a_record() -> None:
    classes, units = ("classification", (4, 5), 1, NO_CHANNELS), Channels((0,), (0.5, 100.0))
    logits, boxes = tasks_of([classes, ("regression", (2, 4, 4), 0, units)]).members
    assert isinstance(logits, Classification)
    assert logits.axis == 1
    assert isinstance(boxes, Regression)
    assert boxes.unit.shape == (2, 1, 1)
    assert boxes.unit.flatten().tolist() == [0.5, 100]


@pytest.mark.parametrize("units", [(), (1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, float("inf")), (1.0, float("nan"))])
def test_units_of_another_output_are_refused(units: tuple[float, ...]) -> None:
    line = f"expected 2 positive units for an output [2, 4, 4], found {len(units)}; calibrate this network again"
    with pytest.raises(ArtifactError, match=f"^{re.escape(line)}$"):
        tasks_of([("regression", (2, 4, 4), 0, Channels((0,), units))])
