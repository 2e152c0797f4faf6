import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_lstm.models.dropout import row_keys
from attn_lstm.ordering import (
    ORDERS,
    TARGETS,
    emits_end_token,
    frequency_rank,
    last_step_ranks,
    next_target,
    random_rank,
)

LOGITS = jnp.array([[0.1, 3.0, 2.0, -1.0], [0.0, 0.0, 0.0, 5.0], [1.0, 2.0, 3.0, 4.0]])
REMAINING = jnp.array([[True, False, True, True], [True, True, True, False], [False] * 4])
RANK = jnp.array([2, 0, 3, 1])  # label 1 is the most frequent, label 2 the rarest


@pytest.mark.parametrize(
    ("method", "expected"),
    [("confidence", [2, 0, 4]), ("frequent_first", [3, 1, 4]), ("rare_first", [2, 2, 4])],
)
def test_next_target_takes_the_first_remaining_label_of_the_order(method, expected):
    target = next_target(method, LOGITS, REMAINING, RANK)
    assert target.dtype == jnp.int32
    np.testing.assert_array_equal(target, expected)


def test_an_end_token_behind_the_labels_is_never_a_target():
    with_end = jnp.concatenate([LOGITS, jnp.full((3, 1), 100.0)], axis=1)
    np.testing.assert_array_equal(next_target("confidence", with_end, REMAINING, RANK), [2, 0, 4])


def test_each_image_has_an_order_of_its_own_where_it_is_drawn():
    rank = jnp.stack([RANK, 3 - RANK, RANK])
    np.testing.assert_array_equal(next_target("random", LOGITS, REMAINING, rank), [3, 2, 4])


def test_drawn_orders_are_permutations_and_any_label_may_come_first():
    ranks = np.asarray(random_rank(row_keys(jax.random.key(0), 4000), 4))
    np.testing.assert_array_equal(np.sort(ranks, axis=1), [range(4)] * 4000)
    places = np.stack([np.bincount(column, minlength=4) for column in ranks.T])
    assert abs(places - 1000).max() < 150  # over 5 standard deviations


def test_unknown_order_names_the_choices():
    with pytest.raises(ValueError, match="confidence, frequent_first, rare_first"):
        next_target("alphabetic", LOGITS, REMAINING, RANK)


def test_frequency_rank_puts_the_most_frequent_first_and_ties_by_index():
    np.testing.assert_array_equal(frequency_rank(jnp.array([5, 9, 0, 9])), [2, 0, 3, 1])


@pytest.mark.parametrize(
    ("order", "target", "expected"),
    [
        ("confidence", "all", False),
        ("confidence", "remaining", False),
        ("confidence", "ranked", True),
        ("confidence", "mla", True),
        ("confidence", "pla", True),
        ("random", "all", True),
        ("frequent_first", "all", True),
    ],
)
def test_which_rows_end_with_a_token(order, target, expected):
    assert emits_end_token(order, target) is expected


def test_the_last_step_ranks_labels_only_where_it_learns_the_whole_set():
    ranking = {(o, t) for o in ORDERS for t in TARGETS if last_step_ranks(o, t)}
    assert ranking == {("confidence", "all")}
