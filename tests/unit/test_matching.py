"""Who can run a task, who runs it best, and how many tasks go to one after the other."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mpsteal._policy import matching
from mpsteal._policy.matching import BEST_FIT, EXACT, FALLBACK, Placement

ANY_TIER = (EXACT, BEST_FIT, FALLBACK)
skills = st.frozensets(st.sampled_from("abcd"))
abilities = st.frozensets(st.sampled_from("abcd*"))
rates = st.integers(0, 20).map(lambda n: n / 20)


def agents(placement: Placement, *rows: tuple[int, str] | tuple[int, str, int] | tuple[int, str, int, float]) -> None:
    """Rows of agent, capabilities (one letter each), queue length, success rate."""
    for agent, has, *rest in rows:
        placement.add_agent(agent, frozenset(has))
        if rest:
            placement.set_queue(agent, int(rest[0]))
        if rest[1:]:
            placement.set_success(agent, rest[1])


class TestFit:
    @pytest.mark.parametrize(
        ("required", "has", "tier", "match"),
        [
            pytest.param("", "", EXACT, 1.0, id="nothing required, nothing there"),
            pytest.param("", "x*", EXACT, 1.0, id="nothing required"),
            pytest.param("ab", "abc", EXACT, 1.0, id="all by name"),
            pytest.param("ab", "ab*", EXACT, 1.0, id="all by name, the wildcard does not matter"),
            pytest.param("ab", "a*", BEST_FIT, 0.5, id="wildcard and one of two"),
            pytest.param("abcd", "abc*", BEST_FIT, 0.75, id="wildcard and three of four"),
            pytest.param("ab", "*", FALLBACK, 0.0, id="wildcard alone"),
            pytest.param("ab", "x*", FALLBACK, 0.0, id="wildcard and none of these"),
            pytest.param("ab", "a", None, 0.5, id="one is missing and no wildcard"),
            pytest.param("ab", "", None, 0.0, id="nothing there"),
        ],
    )
    def test_tier(self, required: str, has: str, tier: int | None, match: float) -> None:
        assert matching.tier(frozenset(required), frozenset(has)) == tier
        assert matching.skill_match(frozenset(required), frozenset(has)) == match

    def test_the_wildcard_can_have_another_name(self) -> None:
        assert matching.tier(frozenset("a"), frozenset(["any"]), wildcard="any") == FALLBACK
        assert matching.tier(frozenset("a"), frozenset("*"), wildcard="any") is None

    @pytest.mark.parametrize(
        ("match", "queue", "rate", "score"),
        [(1.0, 0, 1.0, 1.3), (1.0, 5, 1.0, 0.8), (0.5, 0, 0.0, 0.5), (0.0, 30, 0.5, -2.85)],
    )
    def test_score(self, match: float, queue: int, rate: float, score: float) -> None:
        assert matching.score(match, queue, rate) == pytest.approx(score)

    def test_tiers_by_name(self) -> None:
        assert matching.TIERS == {"exact": EXACT, "best_fit": BEST_FIT, "fallback": FALLBACK}


class TestBest:
    @pytest.mark.parametrize(
        ("required", "tiers", "rows", "best"),
        [
            pytest.param("", ANY_TIER, [(0, "", 2), (1, "", 1)], 1, id="the shorter queue"),
            pytest.param("", ANY_TIER, [(3, ""), (2, "")], 2, id="equal: the smaller number"),
            pytest.param("", ANY_TIER, [(0, "", 3, 1.0), (1, "", 0, 0.0)], 1, id="equal scores: the shorter queue"),
            pytest.param("", ANY_TIER, [(0, "", 2, 1.0), (1, "", 0, 0.0)], 0, id="success is worth three tasks"),
            pytest.param("a", ANY_TIER, [(0, "*"), (1, "a", 50)], 1, id="exact first, however long its queue"),
            pytest.param("a", ANY_TIER, [(0, "b"), (1, "*")], 1, id="fallback, if there is no better"),
            pytest.param("ab", ANY_TIER, [(0, "*"), (1, "a*", 50)], 1, id="best fit before fallback"),
            pytest.param("abcd", ANY_TIER, [(0, "a*"), (1, "abc*", 4)], 1, id="better match, longer queue"),
            pytest.param("abcd", ANY_TIER, [(0, "a*"), (1, "abc*", 6)], 0, id="better match, queue too long"),
            pytest.param("abcd", ANY_TIER, [(1, "ab*", 5), (2, "*", 0), (3, "cd*", 5)], 1, id="equal across kinds"),
            pytest.param("a", (EXACT,), [(0, "*"), (1, "b")], None, id="exact only, and nobody is"),
            pytest.param("a", (FALLBACK, EXACT), [(0, "a"), (1, "*")], 1, id="the tiers' own order"),
            pytest.param("ab", ANY_TIER, [(0, "a"), (1, "b")], None, id="nobody has both"),
            pytest.param("", ANY_TIER, [], None, id="no agent"),
        ],
    )
    def test_best(self, required: str, tiers: tuple[int, ...], rows: list[tuple[int, str]], best: int | None) -> None:
        placement = Placement()
        agents(placement, *rows)
        placement.add_class(7, frozenset(required), tiers)
        before = [placement.queue(row[0]) for row in rows]
        assert placement.best(7) == best
        assert [placement.queue(row[0]) for row in rows] == before
        assert placement.place(7) == best
        assert [placement.queue(row[0]) for row in rows] == [
            n + (row[0] == best) for n, row in zip(before, rows, strict=True)
        ]

    def test_weights_decide(self) -> None:
        rows = [(0, "abc*", 2), (1, "a*", 0)]
        for weight, best in [(0.1, 0), (0.4, 1), (0.0, 0)]:
            placement = Placement(queue_weight=weight)
            agents(placement, *rows)
            placement.add_class(0, frozenset("abcd"), ANY_TIER)
            assert placement.best(0) == best, weight

    def test_without_weights_the_shorter_queue_still_wins(self) -> None:
        placement = Placement(queue_weight=0.0, success_weight=0.0)
        agents(placement, (0, ""), (1, ""))
        placement.add_class(0, frozenset(), ANY_TIER)
        assert [placement.place(0) for _ in range(4)] == [0, 1, 0, 1]

    def test_follows_agents_that_come_and_go(self) -> None:
        placement = Placement()
        placement.add_class(0, frozenset("a"), ANY_TIER)
        assert placement.best(0) is None
        agents(placement, (5, "*"))
        assert placement.best(0) == 5
        agents(placement, (9, "a", 8), (2, "a", 8))
        assert placement.best(0) == 2
        placement.remove_agent(2)
        assert placement.best(0) == 9
        placement.remove_agent(9)
        assert placement.best(0) == 5
        placement.remove_agent(5)
        assert placement.best(0) is None
        agents(placement, (5, "b"))
        assert placement.best(0) is None and placement.queue(5) == 0

    def test_a_number_used_again_is_not_mistaken_for_the_agent_before(self) -> None:
        placement = Placement()
        agents(placement, (0, "a"), (1, "a", 1))
        placement.add_class(0, frozenset("a"), ANY_TIER)
        placement.remove_agent(0)
        agents(placement, (0, "b"))
        assert placement.place(0) == 1

    def test_long_queues(self) -> None:
        placement = Placement()
        agents(placement, (0, "", 10**9), (1, "", 10**9 + 1))
        placement.add_class(0, frozenset(), ANY_TIER)
        assert [placement.place(0) for _ in range(3)] == [0, 0, 1]
        assert placement.queue(0) == 10**9 + 2

    @pytest.mark.parametrize("agent", [-1, matching.AGENT + 1])
    def test_refuses_numbers_without_room(self, agent: int) -> None:
        with pytest.raises(ValueError, match="not within"):
            Placement().add_agent(agent, frozenset())

    def test_refuses_what_would_corrupt_the_order(self) -> None:
        placement = Placement()
        agents(placement, (0, ""))
        with pytest.raises(ValueError, match="there already"):
            placement.add_agent(0, frozenset("a"))
        with pytest.raises(ValueError, match="negative"):
            placement.set_queue(0, -1)
        with pytest.raises(ValueError, match="negative"):
            Placement(queue_weight=-0.1)


class TestAnswers:
    def test_who_can_run_what(self) -> None:
        placement = Placement()
        agents(placement, (4, "ab"), (1, "*"), (3, "b*"), (0, "b"))
        placement.add_class(0, frozenset("ab"), ANY_TIER)
        placement.add_class(1, frozenset("ab"), (EXACT,))
        placement.add_class(2, frozenset(), (EXACT,))
        assert placement.agents_of(0) == [1, 3, 4]
        assert placement.agents_of(1) == [4]
        assert placement.agents_of(2) == [0, 1, 3, 4]
        assert [placement.can_run(0, agent) for agent in (0, 1, 3, 4)] == [False, True, True, True]
        assert [placement.can_run(1, agent) for agent in (0, 1, 3, 4)] == [False, False, False, True]

    @pytest.mark.parametrize(
        ("required", "has", "missing"),
        [
            pytest.param("ab", [], "ab", id="no agent"),
            pytest.param("abc", ["a", "bc"], "a", id="the nearest lacks one"),
            pytest.param("ab", ["", "x"], "ab", id="nobody has any"),
            pytest.param("ab", ["a", "b"], "a", id="equally near: always the same answer"),
        ],
    )
    def test_missing(self, required: str, has: list[str], missing: str) -> None:
        placement = Placement()
        agents(placement, *enumerate(has))
        placement.add_class(0, frozenset(required), ANY_TIER)
        assert placement.missing(0) == frozenset(missing)


crews = st.lists(st.tuples(abilities, st.integers(0, 40), rates), max_size=8)


class TestMany:
    @given(crews, skills, st.integers(0, 300), st.sampled_from([0.0, 0.1, 0.25, 1 / 3]))
    def test_as_one_by_one(
        self, crew: list[tuple[frozenset[str], int, float]], required: frozenset[str], n: int, weight: float
    ) -> None:
        pair = Placement(weight), Placement(weight)
        for placement in pair:
            for agent, (has, queue, rate) in enumerate(crew):
                placement.add_agent(agent, has)
                placement.set_queue(agent, queue)
                placement.set_success(agent, rate)
            placement.add_class(0, required, ANY_TIER)
        one_by_one = [agent for agent in (pair[0].place(0) for _ in range(n)) if agent is not None]
        # A Counter keeps the order in which each was first seen.
        assert pair[1].place_many(0, n) == list(Counter(one_by_one).items())
        for agent in range(len(crew)):
            assert pair[1].queue(agent) == pair[0].queue(agent)
        assert pair[1].place(0) == pair[0].place(0)

    def test_levels_queues_first(self) -> None:
        placement = Placement()
        agents(placement, (0, "", 10), (1, "", 0), (2, "", 4))
        placement.add_class(0, frozenset(), ANY_TIER)
        assert placement.place_many(0, 10) == [(1, 7), (2, 3)]
        assert placement.place_many(0, 10**6) == [(1, 333334), (2, 333334), (0, 333332)]
        assert [placement.queue(agent) for agent in range(3)] == [333342, 333341, 333341]

    def test_nobody(self) -> None:
        placement = Placement()
        placement.add_class(0, frozenset(), ANY_TIER)
        assert placement.place_many(0, 1) == placement.place_many(0, 10) == []


class PlacementMachine(RuleBasedStateMachine):
    """Whatever comes, goes and changes: `best` is what a look at every agent says."""

    def __init__(self) -> None:
        super().__init__()
        self.placement = Placement()
        self.crew: dict[int, tuple[frozenset[str], int, float]] = {}
        self.wanted: dict[int, tuple[frozenset[str], tuple[int, ...]]] = {}

    @rule(agent=st.integers(0, 12), has=abilities)
    def add(self, agent: int, has: frozenset[str]) -> None:
        if agent not in self.crew:
            self.placement.add_agent(agent, has)
            self.crew[agent] = (has, 0, 1.0)

    @precondition(lambda self: self.crew)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        agent = data.draw(st.sampled_from(sorted(self.crew)))
        self.placement.remove_agent(agent)
        del self.crew[agent]

    @rule(required=skills, tiers=st.permutations(ANY_TIER), n=st.integers(1, 3))
    def add_class(self, required: frozenset[str], tiers: list[int], n: int) -> None:
        if len(self.wanted) < 6:
            number = len(self.wanted)
            self.wanted[number] = required, tuple(tiers[:n])
            self.placement.add_class(number, *self.wanted[number])

    @precondition(lambda self: self.crew)
    @rule(data=st.data(), lengths=st.lists(st.integers(0, 9), min_size=1, max_size=20))
    def set_queue(self, data: st.DataObject, lengths: list[int]) -> None:
        agent = data.draw(st.sampled_from(sorted(self.crew)))
        for length in lengths:
            self.placement.set_queue(agent, length)
        has, _, rate = self.crew[agent]
        self.crew[agent] = has, lengths[-1], rate

    @precondition(lambda self: self.crew)
    @rule(data=st.data(), rate=rates)
    def set_success(self, data: st.DataObject, rate: float) -> None:
        agent = data.draw(st.sampled_from(sorted(self.crew)))
        self.placement.set_success(agent, rate)
        has, queue, _ = self.crew[agent]
        self.crew[agent] = has, queue, rate

    @precondition(lambda self: self.wanted)
    @rule(data=st.data(), n=st.integers(1, 30))
    def place(self, data: st.DataObject, n: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.wanted)))
        for agent, count in self.placement.place_many(number, n):
            has, queue, rate = self.crew[agent]
            self.crew[agent] = has, queue + count, rate

    @invariant()
    def queues_agree(self) -> None:
        for agent, (_, queue, _) in self.crew.items():
            assert self.placement.queue(agent) == queue

    @invariant()
    def best_is_best(self) -> None:
        for number, (required, tiers) in self.wanted.items():
            fits = {agent: matching.tier(required, has) for agent, (has, _, _) in self.crew.items()}
            allowed = sorted(agent for agent, fit in fits.items() if fit in tiers)
            assert self.placement.agents_of(number) == allowed
            if not allowed:
                assert self.placement.best(number) is None
                continue
            preferred = min((fits[agent] for agent in allowed), key=tiers.index)
            ranks = []
            for agent in allowed:
                if fits[agent] == preferred:
                    has, queue, rate = self.crew[agent]
                    # Scores are equal when they agree to a billionth; these differ by a hundredth or not at all.
                    score = round(matching.score(matching.skill_match(required, has), queue, rate), 6)
                    ranks.append((-score, queue, agent))
            assert self.placement.best(number) == min(ranks)[2]


TestPlacementMachine = PlacementMachine.TestCase
