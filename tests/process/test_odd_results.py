"""Results that no pickler takes, for reasons of their own."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.pool import MaybeEncodingError

import fault_tasks as tasks
import pytest

import mpsteal


@pytest.mark.parametrize("inside", [False, True], ids=["itself", "inside a tuple"])
def test_a_result_whose_type_has_no_hash_is_refused(open_pool: Callable[..., mpsteal.Pool], inside: bool) -> None:
    """And its agent lives on."""
    pool = open_pool(1)
    pid = pool.apply(tasks.my_pid)
    with pytest.raises(MaybeEncodingError, match="unhashable"):
        pool.apply(tasks.give_one_of_no_hash, (inside,))
    assert pool.apply(tasks.my_pid) == pid
