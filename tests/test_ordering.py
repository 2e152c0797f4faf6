import jax.numpy as jnp
import numpy as np
import pytest

from attn_lstm.ordering import emits_end_token, frequency_rank, next_target

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
        ("frequent_first", "all", True),
    ],
)
def test_which_rows_end_with_a_token(order, target, expected):
    assert emits_end_token(order, target) is expected
