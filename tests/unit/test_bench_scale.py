"""The comparison in `bench/scale.py`: what each scheme gives away, small runs computed by hand, and that none loses a
task whatever the tasks, agents and prices are."""

from __future__ import annotations

import argparse
import json
import sys
from array import array
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import _scale_steal, scale
from bench._des import MS, US, Costs
from bench._model import WrongResult
from bench._scale import LOADS, Books, bound_ns, lengths
from bench._scale_central import Sizes, factoring, guided, one_each, run_central, run_static, stock
from bench._scale_steal import Queues, Stealing, Way, split_in_fours
from mpsteal._policy.stealing import victims

FREE = Costs(**dict.fromkeys(asdict(Costs()), 0.0))
"""Nothing costs anything but the tasks."""
WAYS = [
    Way(deal, choose, half)
    for deal in ("rounds", "evenly", "root", "fours", "map")
    for choose in ("longest", "random", "sample")
    for half in (True, False)
    if (deal, choose) != ("map", "random")
]


def ms(*durations: float) -> array[int]:
    return array("q", [int(d * MS) for d in durations])


@pytest.mark.parametrize(
    ("sizes", "tasks", "agents", "expected"),
    [
        pytest.param(one_each, 3, 2, [1, 1, 1], id="self"),
        pytest.param(stock, 100, 4, [7] * 14 + [2], id="stock: four per agent, rounded up"),
        pytest.param(stock, 3, 4, [1, 1, 1], id="stock: fewer tasks than pieces"),
        pytest.param(guided, 100, 4, [25, 19, 14, 11, 8, 6, 5, 3, 3, 2, 1, 1, 1, 1], id="guided"),
        pytest.param(guided, 3, 1, [3], id="guided: one agent takes all"),
        pytest.param(factoring, 100, 4, [13] * 4 + [6] * 4 + [3] * 4 + [2] * 4 + [1] * 4, id="factoring"),
        pytest.param(factoring, 10, 4, [2] * 4 + [1, 1], id="factoring: the last batch is short"),
    ],
)
def test_pieces(sizes: Sizes, tasks: int, agents: int, expected: list[int]) -> None:
    assert list(sizes(tasks, agents)) == expected


@pytest.mark.parametrize("sizes", [one_each, stock, guided, factoring])
@given(tasks=st.integers(0, 3_000), agents=st.integers(1, 70))
def test_pieces_are_all_there_is(sizes: Sizes, tasks: int, agents: int) -> None:
    pieces = list(sizes(tasks, agents))
    assert sum(pieces) == tasks
    assert all(piece > 0 for piece in pieces)


@given(n=st.integers(1, 3_000), agents=st.integers(1, 70))
def test_fours_are_dealt_in_order(n: int, agents: int) -> None:
    pieces = list(split_in_fours(n, agents))
    assert [piece[1] for piece in pieces] == [0, *[piece[2] for piece in pieces[:-1]]]
    assert pieces[-1][2] == n
    assert all(hi - lo == 4 ** (k // agents) for k, (_, lo, hi) in enumerate(pieces[:-1]))
    assert [piece[0] for piece in pieces] == [k % agents for k in range(len(pieces))]


class TestByHand:
    """Runs whose end can be told without a computer."""

    @pytest.mark.parametrize(
        ("sizes", "tasks", "agents", "end_ms"),
        [
            pytest.param(one_each, [4, 3, 2, 1], 2, 5, id="self, heaviest first: 4+1, 3+2"),
            pytest.param(one_each, [1, 2, 3, 4], 2, 6, id="self, heaviest last: 1+3, 2+4"),
            pytest.param(guided, [4, 3, 2, 1], 2, 7, id="guided, heaviest first: 4+3 in the first piece"),
            pytest.param(factoring, [4, 3, 2, 1], 2, 5, id="factoring, pieces of one"),
            pytest.param(stock, [9, *[1] * 15], 2, 12, id="stock: pairs, 10+2 and six of 2"),
        ],
    )
    def test_central(self, sizes: Sizes, tasks: list[int], agents: int, end_ms: int) -> None:
        books, counts = run_central(ms(*tasks), agents, sizes, FREE)
        assert books.makespan_ns == end_ms * MS
        assert counts.messages == len(list(sizes(len(tasks), agents)))
        assert counts.steals == counts.failed == 0

    @pytest.mark.parametrize(
        ("tasks", "agents", "end_ms"),
        [
            pytest.param([4, 3, 2, 1], 2, 7, id="heaviest first: 4+3, 2+1"),
            pytest.param([4, 3, 2, 1], 4, 4, id="one each"),
            pytest.param([5], 3, 5, id="fewer tasks than agents"),
        ],
    )
    def test_static(self, tasks: list[int], agents: int, end_ms: int) -> None:
        books, counts = run_static(ms(*tasks), agents, FREE)
        assert books.makespan_ns == end_ms * MS
        assert counts.messages == min(agents, len(tasks))

    def test_the_parent_answers_one_at_a_time(self) -> None:
        costs = replace(FREE, give_us=100, start_us=7)
        books, counts = run_central(ms(1, 1, 1), 3, one_each, costs)
        assert books.makespan_ns == 1 * MS + 3 * 100 * US + 7 * US  # the third waits for the other two
        assert counts.parent_ns == 300 * US

    @pytest.mark.parametrize(
        ("way", "tasks", "agents", "end_ms", "steals", "stolen", "messages"),
        [
            pytest.param(Way("root", "longest"), [5] * 4, 2, 10, 1, 2, 2, id="half of three that wait is two"),
            pytest.param(Way("root", "random"), [5] * 4, 2, 10, 1, 2, 2, id="random, with one other, is the same"),
            pytest.param(Way("root", "random", False), [5] * 4, 2, 10, 2, 2, 3, id="one a steal: two steals"),
            pytest.param(Way("root", "longest"), [1, 9], 1, 10, 0, 0, 1, id="alone"),
            pytest.param(Way("evenly", "longest"), [9, 1, 1, 1], 2, 9, 1, 1, 3, id="what waits behind a long one"),
            pytest.param(Way("rounds", "longest"), [9, 1, 1, 1], 2, 9, 1, 1, 5, id="dealt 1, 1, then 1, 1"),
        ],
    )
    def test_stealing(
        self, way: Way, tasks: list[int], agents: int, end_ms: int, steals: int, stolen: int, messages: int
    ) -> None:
        books, counts = Stealing(ms(*tasks), agents, way, FREE).run()
        assert books.makespan_ns == end_ms * MS
        assert (counts.steals, counts.tasks_stolen, counts.messages) == (steals, stolen, messages)

    def test_a_thief_pays(self) -> None:
        """Agent 0 is given two, wakes and rings agent 1, which looks at two queues and steals."""
        costs = replace(FREE, assign_us=8, wake_us=60, look_us=4, steal_us=30, start_us=3)
        books, counts = Stealing(ms(5, 5), 2, Way("root", "longest"), costs).run()
        # Both are rung when all is dealt; agent 1 has looked around 2 * 4 us after it woke, and holds the lock for 30.
        assert books.makespan_ns == (8 + 60 + 2 * 4 + 30 + 3) * US + 5 * MS
        assert counts.steals == 1

    def test_a_map_pays_for_each_task(self) -> None:
        costs = replace(FREE, assign_us=8, batch_us=30, look_us=4, wake_us=60, start_us=3)
        books, counts = Stealing(ms(5), 1, Way("map", "longest"), costs).run()
        assert books.makespan_ns == (30 + 8 + 4 + 60 + 3) * US + 5 * MS
        assert counts.messages == 1


tasks_of = st.lists(st.integers(1, 50), min_size=1, max_size=80)
prices = st.fixed_dictionaries(
    dict.fromkeys(asdict(Costs()), st.sampled_from([0.0, 1.0, 30.0, 300.0])) | {"look_us": st.sampled_from([4.0, 50.0])}
)


class TestConservation:
    """`Books` raises unless each task ran once, on agents that do one thing at a time."""

    @pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.deal}-{way.choose}-{'half' if way.takes_half else 1}")
    @given(durations=tasks_of, agents=st.integers(1, 20), cost=prices, seed=st.integers(0, 5))
    @settings(max_examples=10, deadline=None)
    def test_stealing(self, way: Way, durations: list[int], agents: int, cost: dict[str, float], seed: int) -> None:
        tasks = array("q", [d * 100 * US for d in durations])
        books, counts = Stealing(tasks, agents, way, Costs(**cost), seed).run()
        assert books.makespan_ns >= bound_ns(tasks, agents)
        assert counts.tasks_stolen >= counts.steals
        assert counts.messages > counts.steals
        again, counted = Stealing(tasks, agents, way, Costs(**cost), seed).run()
        assert (again.makespan_ns, counted) == (books.makespan_ns, counts)

    @pytest.mark.parametrize("way", WAYS)
    def test_what_was_stolen_is_not_stolen_back_before_it_begins(self, way: Way) -> None:
        """Found as a run without end: two agents that look for longer than a steal holds the lock."""
        costs = replace(FREE, look_us=50, steal_us=300, miss_us=300, wake_us=300, start_us=30, give_us=30)
        books, counts = Stealing(array("q", [d * 100 * US for d in range(1, 57)]), 2, way, costs, 2).run()
        assert books.makespan_ns >= sum(range(1, 57)) * 50 * US
        assert counts.tasks_stolen <= 56 * 2

    @pytest.mark.parametrize("sizes", [one_each, stock, guided, factoring])
    @given(durations=tasks_of, agents=st.integers(1, 20), cost=prices)
    @settings(max_examples=30, deadline=None)
    def test_central(self, sizes: Sizes, durations: list[int], agents: int, cost: dict[str, float]) -> None:
        tasks = ms(*durations)
        books, _ = run_central(tasks, agents, sizes, Costs(**cost))
        assert books.makespan_ns >= bound_ns(tasks, agents)

    @given(durations=tasks_of, agents=st.integers(1, 20))
    def test_one_by_one_is_within_graham(self, durations: list[int], agents: int) -> None:
        """List scheduling ends before sum / p + longest (Graham, 1966), whatever the order."""
        tasks = ms(*durations)
        books, _ = run_central(tasks, agents, one_each, FREE)
        assert books.makespan_ns <= sum(tasks) / agents + max(tasks)

    @pytest.mark.parametrize(
        ("pieces", "words"),
        [
            pytest.param([(0, 0, 2), (1, 3, 4)], "1 of 4 tasks have not run", id="one is not dealt"),
            pytest.param([(0, 0, 3), (1, 2, 4)], "which had run", id="one is dealt twice"),
        ],
    )
    def test_a_wrong_deal_is_found(
        self, pieces: list[tuple[int, int, int]], words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_scale_steal, "split_evenly", lambda lo, hi, agents: pieces)
        with pytest.raises(WrongResult, match=words):
            Stealing(ms(5, 5, 5, 5), 2, Way("evenly", "longest"), Costs()).run()


class TestBooks:
    @pytest.mark.parametrize(
        ("entries", "words"),
        [
            pytest.param([(0, 0, 2, 0, 20), (1, 1, 2, 0, 10)], "which had run", id="twice"),
            pytest.param([(0, 0, 1, 0, 10), (0, 1, 2, 9, 19)], "beside something else", id="two things at once"),
            pytest.param([(0, 0, 2, 0, 19)], "in less time", id="too fast"),
            pytest.param([(0, 0, 1, 0, 10)], "1 of 2 tasks have not run", id="one is missing"),
        ],
    )
    def test_refuses(self, entries: list[tuple[int, int, int, int, int]], words: str) -> None:
        books = Books(array("q", [10, 10]), 2)
        with pytest.raises(WrongResult, match=words):
            for entry in entries:
                books.enter(*entry)
            books.close()

    def test_accepts(self) -> None:
        books = Books(array("q", [10, 10]), 2)
        books.enter(0, 0, 1, 0, 10)
        books.enter(1, 1, 2, 5, 16)
        books.close()
        assert books.makespan_ns == 16


@given(
    pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=30),
    thief=st.integers(0, 29),
)
def test_queues_are_in_the_order_of_the_policy(pairs: list[tuple[int, int]], thief: int) -> None:
    """Whatever is out of date in the buckets: each holds a length and by how much more its bucket says."""
    lengths_now = [length for length, _ in pairs]
    thief %= len(pairs)
    queues = Queues(len(pairs))
    for agent, (length, more) in enumerate(pairs):
        queues.put(agent, length + more)
    for _ in range(2):  # the second time after the first has moved what was out of date
        assert list(queues.in_order(thief, lengths_now.__getitem__)) == victims(lengths_now, thief)
    everyone = list(queues.in_order(-1, lengths_now.__getitem__))
    assert everyone == sorted((a for a, n in enumerate(lengths_now) if n), key=lambda a: (-lengths_now[a], a))


class TestLengths:
    @pytest.mark.parametrize("name", LOADS)
    def test_same_seed_same_tasks(self, name: str) -> None:
        first, second, other = (lengths(name, agents=5, per_agent=40, mean_ms=2, seed=seed) for seed in (1, 1, 2))
        assert first == second
        assert len(first) == 200
        assert (first != other) == (name != "hot-block")  # which draws nothing

    @pytest.mark.parametrize("name", LOADS)
    def test_mean_is_about_what_was_asked_for(self, name: str) -> None:
        tasks = lengths(name, agents=100, per_agent=100, mean_ms=2, seed=1)
        assert sum(tasks) / len(tasks) == pytest.approx(2 * MS, rel=0.1)

    def test_shapes(self) -> None:
        made = {name: list(lengths(name, agents=10, per_agent=100, mean_ms=1, seed=1)) for name in LOADS}
        assert made["heaviest-first"] == sorted(made["heaviest-first"], reverse=True)
        assert made["longest-last"][-1] == max(made["longest-last"]) == 50 * MS
        assert [k for k, d in enumerate(made["hot-block"]) if d > 1 * MS] == list(range(450, 500))
        assert len(set(made["bimodal"])) == 2

    def test_unknown(self) -> None:
        with pytest.raises(ValueError, match="uniform"):
            lengths("no such", agents=1, per_agent=1, mean_ms=1, seed=1)

    @pytest.mark.parametrize(
        ("tasks", "agents", "bound"),
        [pytest.param([4, 2], 2, 4, id="the longest"), pytest.param([2, 2, 2], 2, 3, id="the sum")],
    )
    def test_bound(self, tasks: list[int], agents: int, bound: int) -> None:
        assert bound_ns(ms(*tasks), agents) == bound * MS

    @pytest.mark.parametrize(("agents", "tasks"), [(0, 1), (1, 0)])
    def test_refuses_nothing(self, agents: int, tasks: int) -> None:
        with pytest.raises(ValueError, match="at least one of each"):
            Stealing(ms(*[1] * tasks), agents, WAYS[0], FREE)

    def test_refuses_thieves_that_give_up_too_soon(self) -> None:
        with pytest.raises(ValueError, match="do not park"):
            Stealing(ms(1), 1, Way("map", "random"), FREE)


class TestCommand:
    """Small runs of the whole command, and the file it keeps."""

    def run(self, path: Path, *words: str) -> dict[str, Any]:
        parser = argparse.ArgumentParser()
        scale.add_arguments(parser)
        small = ["--per-agent", "10", "--agents", "4", "--means", "1", "--loads", "uniform", "bimodal"]
        assert scale.run(parser.parse_args([*small, "--json", str(path), *words])) == 0
        data: dict[str, Any] = json.loads(path.read_text())
        return data

    def test_all_schemes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = self.run(tmp_path / "made.json", "--seed", "3", "--seeds", "2")
        assert all(run["seeds"] == [3, 4] for run in data["runs"])
        assert [run["scheme"] for run in data["runs"] if run["load"] == "uniform"] == list(scale.SCHEMES)
        assert all(run["tasks"] == 40 and run["over_bound"] >= 1 for run in data["runs"])
        assert all(
            run["over_bound_range"][0] <= run["over_bound"] <= run["over_bound_range"][1] for run in data["runs"]
        )
        assert data["wrong"] == 0
        table = capsys.readouterr().out
        assert all(f"\n{scheme}" in table for scheme in scale.SCHEMES)

    def test_update_replaces_only_what_was_run(self, tmp_path: Path) -> None:
        path = tmp_path / "made.json"
        before = self.run(path, "--schemes", "static", "self")["runs"]
        after = self.run(path, "--schemes", "self", "guided", "--update")["runs"]
        assert {(run["scheme"], run["load"]) for run in after} == {
            (scheme, load) for scheme in ("static", "self", "guided") for load in ("uniform", "bimodal")
        }
        assert [run for run in after if run["scheme"] != "guided"] == before

    def test_update_refuses_other_settings(self, tmp_path: Path) -> None:
        self.run(tmp_path / "made.json", "--schemes", "static")
        with pytest.raises(SystemExit, match="other settings"):
            self.run(tmp_path / "made.json", "--schemes", "static", "--update", "--cost", "give_us=2")

    def test_a_wrong_result_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(scale.SCHEMES, "static", lambda tasks, agents, costs, seed: (1.0, scale.Counts()))
        parser = argparse.ArgumentParser()
        scale.add_arguments(parser)
        words = ["--agents", "4", "--means", "1", "--loads", "uniform", "--schemes", "static", "--quick"]
        assert scale.run(parser.parse_args([*words, "--json", str(tmp_path / "made.json")])) == 1
        assert "before" in capsys.readouterr().err

    def test_simulated_is_near_what_was_measured(self, capsys: pytest.CaptureFixture[str]) -> None:
        parser = argparse.ArgumentParser()
        scale.add_arguments(parser)
        assert scale.run(parser.parse_args(["--measured"])) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
        assert [row[0] for row in rows] == ["skew-first", "skew-block", "skew-tail", "skew-late"]
        for _, *figures in rows:
            stock, stock_measured, ours, ours_measured = map(float, figures)
            assert stock == pytest.approx(stock_measured, rel=0.1)
            assert ours == pytest.approx(ours_measured, rel=0.1)

    @pytest.mark.parametrize(("agents", "seeds"), [(10, 9), (100, 5), (500, 1), (10_000, 1)])
    def test_fewer_seeds_the_more_agents(self, agents: int, seeds: int) -> None:
        assert scale.seeds_for(agents) == seeds
