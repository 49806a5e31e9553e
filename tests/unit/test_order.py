"""What comes first, and that nothing waits for ever."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mpsteal._policy.order import FOREVER, Aging, Backlog


def takes(aging: Aging, waiting: Sequence[int], n: int) -> list[int]:
    return [aging.choose(waiting) for _ in range(n)]


def others_above(aging_tasks: int, rise: int, above: int) -> int:
    """A1 for any `aging_tasks`: how many tasks of higher levels go first. Once a level is equal to the highest, each
    other but the top one goes before it at most once, and again for each `aging_tasks` that went before that one."""
    late = 0
    for _ in range(1, above):
        late += 1 + late // aging_tasks
    return aging_tasks * rise + late if above else 0


def others(aging_tasks: int, rise: int, above: int, below: int) -> int:
    """How many tasks of any other level go first: those below rise against it as it does against those above."""
    total = others_above(aging_tasks, rise, above)
    for _ in range(below):
        total += 1 + total // aging_tasks
    return total


class TestAging:
    @pytest.mark.parametrize(
        ("aging_tasks", "per_priority", "waiting", "taken"),
        [
            pytest.param(3, 1, [2], [2] * 5, id="one level"),
            pytest.param(2, 1, [0, 1], [1, 1, 0, 1, 1, 0], id="the next priority after aging_tasks"),
            pytest.param(2, 1, [0, 2], [2, 2, 2, 2, 0, 2], id="two priorities below: after twice as many"),
            pytest.param(1, 1, [0, 1, 2], [2, 1, 0, 2, 1, 0], id="each in turn when every task counts"),
            pytest.param(2, 2, [0, 1], [1, 1, 0, 1, 1, 0], id="levels of one priority age against each other"),
            pytest.param(2, 2, [1, 2], [2, 2, 1, 2, 2, 1], id="levels of neighbouring priorities"),
            pytest.param(2, 2, [0, 3], [3, 3, 0, 3, 3, 0], id="the level within a priority does not count"),
            pytest.param(9, 1, [3, 1, 4], [4, 4, 4], id="in whatever order they are given"),
        ],
    )
    def test_sequence(self, aging_tasks: int, per_priority: int, waiting: list[int], taken: list[int]) -> None:
        assert takes(Aging(aging_tasks, per_priority), waiting, len(taken)) == taken

    def test_age_is_lost_when_nothing_waits(self) -> None:
        aging = Aging(3, 1)
        takes(aging, [0, 1], 2)
        aging.choose([1])
        assert takes(aging, [0, 1], 4) == [1, 1, 1, 0]

    def test_age_is_kept_while_lower_levels_are_taken(self) -> None:
        aging = Aging(4, 1)
        assert takes(aging, [0, 1, 4], 12) == [4] * 12  # both levels wait
        assert aging.choose([0, 1, 4]) == 1  # three priorities below, and risen by as many
        assert takes(aging, [0, 1, 4], 3) == [4, 4, 4]
        assert aging.choose([0, 1, 4]) == 0
        aging.took([0, 1], 0, 5)
        assert takes(aging, [0, 1, 4], 9) == [4] * 9  # level 1 had 3 of its 12 before

    def test_forgets_a_level(self) -> None:
        aging = Aging(2, 1)
        takes(aging, [0, 1], 2)
        aging.forget(0)
        aging.forget(5)
        assert takes(aging, [0, 1], 3) == [1, 1, 0]

    @pytest.mark.parametrize(("aging_tasks", "per_priority"), [(0, 1), (1, 0), (-1, 1)])
    def test_refuses_nonsense(self, aging_tasks: int, per_priority: int) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            Aging(aging_tasks, per_priority)


levels = st.integers(0, 9)
waiting_sets = st.lists(levels, min_size=1, unique=True)


class TestNoLevelStarves:
    @given(
        st.integers(1, 20),
        st.integers(1, 3),
        levels,
        st.lists(st.tuples(waiting_sets, st.integers(1, 40)), min_size=1, max_size=30),
    )
    def test_whatever_else_comes_and_goes(
        self, aging_tasks: int, per_priority: int, patient: int, crowd: list[tuple[list[int], int]]
    ) -> None:
        aging = Aging(aging_tasks, per_priority)
        rise = max(1, 9 // per_priority - patient // per_priority)
        above = total = 0
        for waiting, n in crowd:
            for taken in takes(aging, sorted({*waiting, patient}), n):
                if taken == patient:
                    above = total = 0
                    continue
                above += taken > patient
                total += 1
                assert above <= others_above(aging_tasks, rise, 9 - patient)
                assert total <= others(aging_tasks, rise, 9 - patient, patient)
                if aging_tasks >= 9 - patient:
                    assert above <= aging_tasks * rise + (9 - patient) - 1  # A1 as written

    @pytest.mark.parametrize("aging_tasks", [1, 3, 10, 50])
    def test_under_constant_pressure_from_all_priorities(self, aging_tasks: int) -> None:
        waiting = list(range(5))
        taken = takes(Aging(aging_tasks, 1), waiting, 3000)
        for level in waiting:
            at = [-1] + [i for i, other in enumerate(taken) if other == level]
            longest = max(b - a - 1 for a, b in pairwise(at))
            assert longest <= others(aging_tasks, max(1, 4 - level), 4 - level, level), level
        assert [taken.count(level) for level in waiting] == sorted(taken.count(level) for level in waiting)


class TestSteady:
    @given(
        st.integers(1, 20),
        st.integers(1, 3),
        st.lists(st.tuples(waiting_sets, st.integers(1, 30)), max_size=10),
        waiting_sets,
    )
    def test_agrees_with_asking_each_time(
        self, aging_tasks: int, per_priority: int, past: list[tuple[list[int], int]], waiting: list[int]
    ) -> None:
        asked, told = Aging(aging_tasks, per_priority), Aging(aging_tasks, per_priority)
        for crowd, n in past:
            takes(asked, crowd, n)
            takes(told, crowd, n)
        chosen = asked.choose(waiting)
        assert told.choose(waiting) == chosen
        n = told.steady(waiting, chosen)
        if n == FOREVER:
            assert len(waiting) == 1
            n = 50
        elif n:
            told.took(waiting, chosen, n)
        assert takes(asked, waiting, n) == [chosen] * n
        if len(waiting) > 1:
            assert asked.peek(waiting) != chosen
        assert takes(asked, waiting, 100) == takes(told, waiting, 100)

    @pytest.mark.parametrize(
        ("waiting", "chosen", "steady"),
        [
            pytest.param([4], 4, FOREVER, id="alone"),
            pytest.param([3, 4], 4, 9, id="the next priority waits"),
            pytest.param([0, 4], 4, 39, id="four priorities below"),
        ],
    )
    def test_at_the_start(self, waiting: list[int], chosen: int, steady: int) -> None:
        aging = Aging(10, 1)
        assert aging.choose(waiting) == chosen
        assert aging.steady(waiting, chosen) == steady

    def test_a_level_that_had_risen_is_not_steady(self) -> None:
        aging = Aging(1, 1)
        assert takes(aging, [0, 1], 2) == [1, 0]
        assert aging.steady([0, 1], 0) == 0


def backlog(*rows: tuple[str, int, int, int | None], aging_tasks: int = 10**6) -> Backlog[str]:
    """Rows of item, class, level, deadline; in this order."""
    waiting: Backlog[str] = Backlog(Aging(aging_tasks, 1))
    for seq, (item, number, level, deadline) in enumerate(rows):
        waiting.add(number, level, deadline, seq, item)
    return waiting


def all_of(waiting: Backlog[str], *numbers: int) -> str:
    items = []
    while (item := waiting.pop(numbers)) is not None:
        items.append(item)
    return "".join(items)


class TestBacklog:
    @pytest.mark.parametrize(
        ("rows", "numbers", "order"),
        [
            pytest.param([("a", 0, 1, None), ("b", 0, 1, None)], [0], "ab", id="as they came"),
            pytest.param([("a", 0, 1, None), ("b", 0, 2, None)], [0], "ba", id="the higher level first"),
            pytest.param(
                [("a", 0, 1, 9), ("b", 0, 1, 5), ("c", 0, 1, 7)], [0], "bca", id="the earliest deadline first"
            ),
            pytest.param([("a", 0, 1, None), ("b", 0, 1, 10**9)], [0], "ba", id="without a deadline: last"),
            pytest.param([("a", 0, 1, 0), ("b", 0, 2, None)], [0], "ba", id="level before deadline"),
            pytest.param([("a", 1, 1, None), ("b", 0, 1, None)], [0, 1], "ab", id="classes are equal"),
            pytest.param([("a", 1, 1, None), ("b", 0, 1, 4)], [0, 1], "ba", id="deadlines across classes"),
            pytest.param([("a", 1, 5, None), ("b", 0, 1, None)], [0], "b", id="other classes stay"),
            pytest.param([("a", 1, 5, None)], [0, 2], "", id="none of these"),
            pytest.param([], [0], "", id="empty"),
        ],
    )
    def test_order(self, rows: list[tuple[str, int, int, int | None]], numbers: list[int], order: str) -> None:
        waiting = backlog(*rows)
        assert all_of(waiting, *numbers) == order
        assert len(waiting) == len(rows) - len(order)

    def test_a_level_that_waited_gets_its_turn(self) -> None:
        rows = [(item, 0, 4, None) for item in "abcdefgh"]
        assert all_of(backlog(("z", 0, 1, None), *rows, aging_tasks=2), 0) == "abcdefzgh"

    def test_a_class_that_nobody_asks_for_ages_too(self) -> None:
        rows = [(item, 0, 1, None) for item in "abcd"]
        waiting = backlog(("z", 1, 0, None), *rows, aging_tasks=2)
        assert [waiting.pop([0]), waiting.pop([0])] == ["a", "b"]
        assert waiting.top([0, 1]) == (0, 1)
        assert all_of(waiting, 0, 1) == "zcd"

    def test_a_level_emptied_by_cancel_starts_anew(self) -> None:
        rows = [(item, 0, 1, None) for item in "abcdef"]
        waiting = backlog(("z", 0, 0, None), *rows, aging_tasks=2)
        assert [waiting.pop([0]), waiting.pop([0])] == ["a", "b"]
        assert waiting.cancel("z")
        waiting.add(0, 0, None, 100, "y")
        assert all_of(waiting, 0) == "cdyef"

    def test_looking_changes_nothing(self) -> None:
        waiting = backlog(("a", 3, 1, None), ("b", 5, 2, None), ("c", 3, 2, 7))
        for _ in range(100):
            assert waiting.top([3, 5]) == (2, 3)
            assert waiting.top([5]) == (2, 5)
            assert waiting.top([4]) is None
            assert [waiting.highest(numbers) for numbers in ([3], [5], [4], [])] == [2, 2, -1, -1]
            assert waiting.classes() == [3, 5]
            assert len(waiting) == 3
        assert all_of(waiting, 3, 5) == "cba"
        assert waiting.classes() == []

    def test_cancelled_items_do_not_come(self) -> None:
        waiting = backlog(*((item, 0, 1, None) for item in "abcdef"))
        assert [waiting.cancel(item) for item in "acfax"] == [True, True, True, False, False]
        assert len(waiting) == 3
        assert all_of(waiting, 0) == "bde"
        assert not waiting.cancel("b")

    def test_an_item_may_come_back_elsewhere(self) -> None:
        waiting = backlog(("a", 0, 1, 5), ("b", 0, 1, 6))
        assert waiting.cancel("a")
        waiting.add(0, 1, None, 2, "a")
        assert all_of(waiting, 0) == "ba"

    def test_an_item_is_here_once(self) -> None:
        waiting = backlog(("a", 0, 1, None))
        with pytest.raises(ValueError, match="already"):
            waiting.add(1, 1, None, 9, "a")

    def test_drain_takes_one_class_in_order(self) -> None:
        waiting = backlog(("a", 0, 1, None), ("b", 0, 2, None), ("c", 1, 2, None), ("d", 0, 2, 3), ("e", 0, 2, 1))
        waiting.cancel("e")
        assert waiting.drain(0) == ["d", "b", "a"]
        assert waiting.drain(0) == []
        assert (len(waiting), waiting.classes()) == (1, [1])
        assert not waiting.cancel("a")

    def test_cancelled_items_take_no_room(self) -> None:
        waiting: Backlog[int] = Backlog(Aging(5, 1))
        for i in range(10_000):
            waiting.add(0, 0, None, i, i)
            if i >= 10:
                assert waiting.cancel(i - 1)
        (queue,) = waiting._levels[0].values()
        assert len(waiting) == 10
        assert len(queue.heap) < 100


Group = tuple[int, int, int]


@given(
    groups=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 6)), max_size=12),
    asked=st.lists(st.tuples(st.sets(st.integers(0, 2), min_size=1), st.integers(1, 5)), max_size=60),
    aging_tasks=st.integers(1, 4),
)
def test_items_of_many_go_in_the_order_of_their_tasks(
    groups: list[Group], asked: list[tuple[set[int], int]], aging_tasks: int
) -> None:
    """`look` and `take` with items that stand for many, against `pop` with each of them on its own."""
    single: Backlog[int] = Backlog(Aging(aging_tasks, 2))
    many: Backlog[tuple[int, int]] = Backlog(Aging(aging_tasks, 2))
    seq = 0
    for number, level, size in groups:
        many.add(number, level, None, seq, (seq, seq + size))
        for i in range(seq, seq + size):
            single.add(number, level, None, i, i)
        seq += size
    for numbers, most in asked:
        top = many.top(numbers)
        assert top == single.top(numbers)
        first = many.first(numbers)
        if first is None or top is None:
            assert first is None and top is None and single.pop(numbers) is None
            continue
        assert (first.level, first.number) == top
        (lo, hi), turns = many.look(first)
        take = min(hi - lo, most, turns)
        many.take(first, take, (lo + take, (lo + take, hi)) if lo + take < hi else None)
        assert [single.pop(numbers) for _ in range(take)] == list(range(lo, lo + take))


def test_as_if_nothing_waited_of_what_is_skipped() -> None:
    waiting = backlog(("a", 0, 2, None), ("b", 1, 2, None), ("c", 0, 1, None))
    skip: set[tuple[int, int]] = set()
    found = []
    while (first := waiting.first([0, 1], skip)) is not None:
        skip.add((first.level, first.number))
        found.append((first.level, first.number))
    assert found == [(2, 0), (2, 1), (1, 0)]
    assert all_of(waiting, 0, 1) == "abc"


class BacklogMachine(RuleBasedStateMachine):
    """Against a plain list, with an Aging of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: Backlog[int] = Backlog(Aging(3, 2))
        self.aging = Aging(3, 2)
        self.items: dict[int, tuple[int, int, float, int]] = {}
        self.seq = 0

    def left(self, level: int) -> None:
        if all(other[1] != level for other in self.items.values()):
            self.aging.forget(level)

    @rule(
        item=st.integers(0, 40),
        number=st.integers(0, 4),
        level=st.integers(0, 7),
        deadline=st.none() | st.integers(0, 5),
    )
    def add(self, item: int, number: int, level: int, deadline: int | None) -> None:
        if item in self.items:
            return
        self.waiting.add(number, level, deadline, self.seq, item)
        self.items[item] = number, level, float("inf") if deadline is None else deadline, self.seq
        self.seq += 1

    @rule(item=st.integers(0, 40))
    def cancel(self, item: int) -> None:
        assert self.waiting.cancel(item) == (item in self.items)
        if item in self.items:
            self.left(self.items.pop(item)[1])

    @precondition(lambda self: self.items)
    @rule(numbers=st.sets(st.integers(0, 5)), n=st.integers(1, 5))
    def pop(self, numbers: set[int], n: int) -> None:
        for _ in range(n):
            allowed = {item: row for item, row in self.items.items() if row[0] in numbers}
            if not allowed:
                assert self.waiting.top(numbers) is self.waiting.pop(numbers) is None
                return
            level = self.aging.peek({row[1] for row in allowed.values()})
            first = min((row[2:], item) for item, row in allowed.items() if row[1] == level)[1]
            assert self.waiting.top(numbers) == (level, self.items[first][0])
            assert self.waiting.pop(numbers) == first
            self.aging.took({row[1] for row in self.items.values()}, level, 1)
            del self.items[first]
            self.left(level)

    @rule(number=st.integers(0, 4))
    def drain(self, number: int) -> None:
        mine = {item: row for item, row in self.items.items() if row[0] == number}
        assert self.waiting.drain(number) == sorted(mine, key=lambda item: (-mine[item][1], mine[item][2:]))
        for item, row in mine.items():
            del self.items[item]
            self.left(row[1])

    @invariant()
    def agree(self) -> None:
        assert len(self.waiting) == len(self.items)
        assert self.waiting.classes() == sorted({row[0] for row in self.items.values()})
        for number in range(5):
            mine = [row[1] for row in self.items.values() if row[0] == number]
            assert self.waiting.highest({number}) == max(mine, default=-1)


TestBacklogMachine = BacklogMachine.TestCase
