import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tasks.order import Order


@given(st.integers(1, 200), st.integers(0, 2**32), st.integers(0, 5))
def test_every_epoch_visits_every_task_once(tasks, seed, epoch):
    order = Order(tasks, seed)
    visited = [order.task_index(epoch * tasks + i) for i in range(tasks)]
    assert sorted(visited) == list(range(tasks))


@given(st.integers(1, 50), st.integers(0, 9), st.integers(0, 400), st.integers(0, 40))
def test_a_cursor_is_all_it_takes_to_resume(tasks, seed, cursor, length):
    straight = [Order(tasks, seed).task_index(i) for i in range(cursor + length)]
    resumed = [Order(tasks, seed).task_index(cursor + i) for i in range(length)]
    assert straight[cursor:] == resumed


def test_epochs_seeds_and_names_have_orders_of_their_own():
    def first(order, epoch=0):
        return [order.task_index(epoch * 100 + i) for i in range(100)]

    one = Order(100, 0)
    others = [first(one, 1), first(Order(100, 1)), first(Order(100, 0, "evaluate"))]
    assert first(one) not in others
    assert first(one) != list(range(100))


def test_no_task_and_no_place_before_the_first():
    with pytest.raises(ValueError, match="at least one task"):
        Order(0, 0)
    with pytest.raises(ValueError, match="count from 0"):
        Order(3, 0).task_index(-1)
