"""Classification: numbers computed by hand, and the covariance that random directions promise."""

from __future__ import annotations

from itertools import product
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeq.tasks.classification import Classification, Hits, classes, entropy

TASK = Classification()
LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)


# --- answers --------------------------------------------------------------------------------------------------------


def test_several_classes_are_answers_as_they_are() -> None:
    assert torch.equal(TASK.answers(LOGITS), LOGITS)
    assert TASK.shape((3,)) == (3,)
    assert TASK.shape((21, 4, 5)) == (21, 4, 5)


def test_classes_may_be_on_any_axis() -> None:
    """A sequence of two places and three classes: `[n, place, class]`."""
    sequence, task = torch.arange(12.0).reshape(2, 2, 3), Classification(axis=1)
    assert torch.equal(task.answers(sequence), sequence.transpose(1, 2))
    assert task.shape((2, 3)) == (3, 2)
    assert classes(sequence.numpy(), 1).tolist() == [[2, 2], [2, 2]]
    assert classes(sequence.numpy(), 0).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_probabilities_of_one_of_two_classes_and_classes_themselves() -> None:
    assert classes(np.array([[0.2, 0.7]], np.float32), None).tolist() == [[0, 1]]
    assert classes(np.array([3, 5], np.float32)).tolist() == [3, 5]


def test_one_class_is_against_zero() -> None:
    value = torch.tensor([[3.0], [-1.0]])
    found = TASK.answers(value)
    assert found.tolist() == [[3.0, 0.0], [-1.0, 0.0]]
    torch.testing.assert_close(found.softmax(1)[:, :1], value.sigmoid())
    assert TASK.shape((1,)) == (2,)


# --- divergence and directions --------------------------------------------------------------------------------------


def test_divergence_of_hand_computed_probabilities() -> None:
    """From (1/2, 1/2) to (1/4, 3/4): 1/2 log 2 + 1/2 log 2/3."""
    expected, found = torch.zeros(2, 2), torch.tensor([[0.0, log(3.0)], [0.0, log(3.0)]])
    nats = 0.5 * log(2.0) + 0.5 * log(2.0 / 3.0)
    assert float(TASK.divergence(found, expected, "batchmean")) == pytest.approx(nats, rel=1e-6)
    assert float(TASK.divergence(found, expected, "sum")) == pytest.approx(2 * nats, rel=1e-6)
    assert float(TASK.divergence(found, found, "sum")) == 0


def fisher(logits: torch.Tensor) -> torch.Tensor:
    p = logits.softmax(0)
    return torch.diag(p) - torch.outer(p, p)


@pytest.mark.parametrize("logits", [*LOGITS, torch.tensor([5.0, 0.0, -5.0, 1.0], dtype=torch.float64)])
def test_the_covariance_of_directions_is_the_fisher_information(logits: torch.Tensor) -> None:
    """Over all signs, each of them as likely."""
    signs = torch.tensor(list(product([1.0, -1.0], repeat=len(logits))), dtype=torch.float64)
    found = TASK.random_direction(logits.expand(len(signs), -1), signs)
    torch.testing.assert_close(found.T @ found / len(signs), fisher(logits))


@pytest.mark.parametrize("logits", LOGITS)
def test_the_covariance_of_two_directions_has_a_part_for_all_classes_alike(logits: torch.Tensor) -> None:
    every = list(product([1.0, -1.0], repeat=len(logits)))
    signs, others = torch.tensor(list(product(every, every)), dtype=torch.float64).unbind(1)
    expected = fisher(logits) + 0.1 / len(logits) * torch.eye(len(logits), dtype=torch.float64)
    first, second = TASK.random_directions(logits.expand(len(signs), -1), signs, others)
    for found in (first, second):
        torch.testing.assert_close(found.T @ found / len(signs), expected)
    assert not torch.equal(first, second)


@given(st.floats(-3, 3), st.lists(st.floats(-1e-3, 1e-3), min_size=2, max_size=2))
def test_two_directions_of_two_classes_are_exact(logit: float, change: list[float]) -> None:
    """But for the part that counts all classes alike: the mean of both is `d' F d`, whatever the signs."""
    logits, d = torch.tensor([logit, 0.0], dtype=torch.float64), torch.tensor(change, dtype=torch.float64)
    none = torch.zeros(1, 2, dtype=torch.float64)
    for signs in product([1.0, -1.0], repeat=2):
        drawn = TASK.random_directions(logits[None], torch.tensor([signs], dtype=torch.float64), none)
        mean = sum(float(v[0] @ d) ** 2 for v in drawn) / 2
        assert mean == pytest.approx(float(d @ fisher(logits) @ d), rel=1e-6, abs=1e-18)


# --- what an error costs --------------------------------------------------------------------------------------------


def test_an_answer_is_worth_what_the_float_network_trusts_it() -> None:
    trust = TASK.trust(torch.tensor([[log(6.0), log(3.0), log(1.0)]] * 3))
    torch.testing.assert_close(trust[0], torch.tensor([0.6, 0.3, 0.1]))
    found = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    torch.testing.assert_close(TASK.loss(trust, found), torch.tensor([0.0, 0.3, 0.5]))


def test_every_position_of_a_map_has_an_answer() -> None:
    maps = torch.zeros(2, 3, 4, 5)
    assert TASK.loss(TASK.trust(maps), maps).shape == (2 * 4 * 5,)


# --- hits -----------------------------------------------------------------------------------------------------------


def test_hits_of_hand_ranked_logits() -> None:
    logits = np.array([[0, 9, 1, 2, 3, 4, 5], [9, 0, 1, 2, 3, 4, 5], [1, 1, 1, 1, 1, 1, 1]], np.float32)
    found = Hits.of(logits, logits[::-1], np.array([1, 1, 5]))
    assert (found.predictions, found.top1, found.top5, found.agreed) == ([1, 0, 0], 1, 1, 1)
    assert found.percent(found.top1) == pytest.approx(100 / 3)


def test_of_equal_logits_the_first_is_the_prediction() -> None:
    logits = np.ones((5, 6), np.float32)
    found = Hits.of(logits, logits, np.arange(5))
    assert (found.top1, found.top5) == (1, 5)


def test_without_labels_only_agreement_counts() -> None:
    logits = np.eye(3, dtype=np.float32)
    found = Hits.of(logits, logits[[0, 2, 1]], None)
    assert (found.top1, found.top5, found.agreed) == (0, 0, 1)


def test_hits_add_up() -> None:
    logits, labels = np.eye(4, dtype=np.float32), np.array([0, 1, 3, 2])
    whole, parts = Hits.of(logits, logits, labels), Hits()
    for i in range(4):
        parts.add(Hits.of(logits[i : i + 1], logits[i : i + 1], labels[i : i + 1]))
    assert parts == whole


def test_classes_of_maps() -> None:
    assert classes(np.array([[[0.0, 2.0]], [[1.0, 0.0]]], np.float32).transpose(1, 0, 2)).tolist() == [[1, 0]]


def test_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [1000.0, 0.0, 0.0], [log(2), 0.0, 0.0]], dtype=torch.float64)
    expected = [log(3), 0, 0.5 * log(2) + 0.5 * log(4)]
    assert entropy(logits).tolist() == pytest.approx(expected)
