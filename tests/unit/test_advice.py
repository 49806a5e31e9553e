"""`mpsteal advise`: what it predicts and says from given figures, and how it finds a function and its inputs."""

from __future__ import annotations

import functools
import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsteal._advise import (
    MPSTEAL_MAP,
    POOL_WAYS,
    SERIAL,
    STOCK_IMAP,
    STOCK_MAP,
    AdviceError,
    Costs,
    Profile,
    WayCosts,
    predict,
)
from mpsteal._advise import words as w
from mpsteal._advise.calibrate import LONGEST_S, lengths
from mpsteal._advise.command import main, part, size_of_trial, trial_in_words
from mpsteal._advise.load import MOST_INPUTS, Inputs, find_function, find_inputs, kept_surroundings, read_file
from mpsteal._advise.measure import measure, same, share
from mpsteal._advise.predict import (
    MAKESPANS,
    MOST_PIECES,
    draw,
    forecast,
    has_trend,
    lost_at,
    makespan,
    mpsteal_makespan,
    pays_from,
    stock_chunksize,
    stock_makespan,
    summary,
)
from mpsteal._advise.trial import equal


def way(start: float = 0.0, lost: float = 0.0, bytes_per_s: float = 1e9) -> WayCosts:
    return WayCosts((start,), ((0.0, (lost,)),), bytes_per_s)


def costs(stock: WayCosts, imap: WayCosts, ours: WayCosts, slowdown: float = 1.0) -> Costs:
    return Costs({STOCK_MAP: stock, STOCK_IMAP: imap, MPSTEAL_MAP: ours}, (slowdown,))


FREE = costs(way(), way(), way())


def profile(*times_s: float, inputs: int | None = None, **more: Any) -> Profile:
    return Profile(times_s, tuple(range(len(times_s))), len(times_s) if inputs is None else inputs, **more)


times = st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=80)
agents = st.integers(1, 9)


# -- makespans --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("durations", "count", "expected"),
    [
        ([3, 3, 3, 3], 2, 6),
        ([4, 1, 1, 1, 1], 2, 4),
        ([1, 1, 1, 1, 4], 2, 6),
        ([2, 2, 2], 4, 2),
        ([5], 1, 5),
    ],
)
def test_whoever_is_free_takes_the_next(durations: list[float], count: int, expected: float) -> None:
    assert makespan(durations, count) == expected


def test_stock_chunks_are_equal_and_cut_beforehand() -> None:
    # 16 items for 2 agents: 8 chunks of 2. The first has both heavy items, the other seven take 2 each.
    assert stock_makespan([10, 10] + [1] * 14, 2) == 20
    assert makespan([10, 10] + [1] * 14, 2) == 17


@given(st.integers(1, 10_000), agents)
def test_stock_chunksize_is_the_stock_pools(items: int, count: int) -> None:
    size, extra = divmod(items, count * 4)  # the words of `multiprocessing.Pool._map_async`
    assert stock_chunksize(items, count) == size + bool(extra)


@pytest.mark.parametrize("way", MAKESPANS)
@given(durations=times, count=agents)
def test_makespan_lies_between_its_bounds(way: str, durations: list[float], count: int) -> None:
    found = MAKESPANS[way](durations, count)
    total = sum(durations)
    assert max(total / count, max(durations)) <= found * (1 + 1e-9)
    assert found <= total * (1 + 1e-9)


@pytest.mark.parametrize("length", [2e-6, 1e-3])
def test_mpsteal_comes_near_the_bound_for_many_equal_items(length: float) -> None:
    assert mpsteal_makespan([length] * 2000, 4) <= 1.01 * 2000 * length / 4


def test_mpsteal_does_not_wait_for_a_chunk_of_heavy_neighbours() -> None:
    durations = [0.05] * 40 + [0.001] * 760
    bound = sum(durations) / 4
    assert stock_makespan(durations, 4) > 2 * bound
    assert mpsteal_makespan(durations, 4) < 1.1 * bound


# -- the forecast -----------------------------------------------------------------------------------------------------


def drawn_only(patch: pytest.MonkeyPatch) -> None:
    """Have ranges without the model's own error."""
    patch.setattr(predict, "OWN_ERROR", 0.0)
    patch.setattr(predict, "OWN_ERROR_OF_IMAP", 0.0)


def test_lost_is_interpolated_and_flat_beyond() -> None:
    points = [(0.0, 10.0), (1.0, 20.0), (3.0, 0.0)]
    assert [lost_at(points, length) for length in (0.0, 0.5, 1.0, 2.0, 3.0, 9.0)] == [10, 15, 20, 10, 0, 0]


def test_forecast_computed_by_hand() -> None:
    found = forecast(profile(*[1.0] * 8), costs(way(0.5, 0.1), way(0.5, 0.2), way(0.25, 0.1)), 8, 2)
    assert {name: pytest.approx(made.seconds) for name, made in found.items()} == {
        SERIAL: 8.0,
        STOCK_MAP: 0.5 + 4 * 1.1,
        STOCK_IMAP: 0.5 + 4 * 1.2,
        MPSTEAL_MAP: 0.25 + 4 * 1.1,
    }
    for name, made in found.items():  # nothing varies but the model's own error, which is there all the same
        own = 1.645 * (0.2 if name == STOCK_IMAP else 0.09)
        assert (made.low_s, made.high_s) == pytest.approx((made.seconds * (1 - own), made.seconds * (1 + own)))


def test_slowdown_is_of_the_pools_alone_and_drift_of_all() -> None:
    found = forecast(profile(*[1.0] * 8), FREE._replace(slowdown=(1.5,), drift=(2.0,)), 8, 2)
    assert found[SERIAL].seconds == pytest.approx(16.0)
    assert found[STOCK_IMAP].seconds == pytest.approx(12.0)


def test_order_of_measured_inputs_is_kept() -> None:
    heavy_first = forecast(profile(*[8.0] * 2, *[1.0] * 14), FREE, 16, 2)
    assert (heavy_first[STOCK_MAP].seconds, heavy_first[MPSTEAL_MAP].seconds) == (16.0, 15.0)
    heavy_last = forecast(profile(*[1.0] * 15, 8.0), FREE, 16, 2)
    assert heavy_last[MPSTEAL_MAP].seconds == 15.0


def test_large_function_goes_with_each_chunk_of_the_stock_pool() -> None:
    large = profile(*[1.0] * 16, function_bytes=1e6, function_s=0.1)
    slow = way(bytes_per_s=1e7)  # 0.1 s more for each
    found = forecast(large, costs(slow, slow, slow), 16, 2)
    assert found[STOCK_MAP].seconds == pytest.approx(8 + 8 * 0.2)
    assert found[STOCK_IMAP].seconds == pytest.approx(8 + 16 * 0.2)
    assert found[MPSTEAL_MAP].seconds == pytest.approx(8 + 2 * 0.2)


@settings(max_examples=40)
@given(times, st.integers(1, 10**7), agents, st.integers(0, 99))
def test_forecast_stays_within_what_was_measured(sample: list[float], items: int, count: int, seed: int) -> None:
    known = Profile(tuple(sample), tuple(range(len(sample))), len(sample) + 1)
    with pytest.MonkeyPatch.context() as patch:
        drawn_only(patch)
        found = forecast(known, FREE, items, count, rounds=2, seed=seed)
    for made in found.values():
        assert made.low_s <= made.seconds <= made.high_s
    # Pieces of many items are drawn nearly normally, so nearly within.
    assert found[SERIAL].low_s >= 0.99 * items * min(sample)
    assert found[SERIAL].high_s <= 1.01 * items * max(sample)
    for name in POOL_WAYS:
        assert found[name].high_s >= found[SERIAL].low_s / count * (1 - 1e-9)


def test_same_figures_give_the_same_forecast() -> None:
    rng = random.Random(1)
    sample = profile(*(rng.random() for _ in range(50)), inputs=60)
    first, again = (forecast(sample, FREE, 100, 3, rounds=9) for _ in range(2))
    assert first == again
    assert first != forecast(sample, FREE, 100, 3, rounds=9, seed=5)


def test_range_of_a_small_sample_is_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_only(monkeypatch)
    rng = random.Random(2)
    few, many = (profile(*(rng.random() for _ in range(count)), inputs=10**6) for count in (10, 1000))
    spans = [
        (made.high_s - made.low_s) / made.seconds for made in (forecast(s, FREE, 10**6, 2)[SERIAL] for s in (few, many))
    ]
    assert spans[0] > 3 * spans[1]


def test_range_holds_two_errors_that_have_nothing_to_do_with_each_other() -> None:
    found = summary(SERIAL, [8.0, 10.0, 13.0])
    own = 1.645 * 0.09 * 10
    assert found.low_s == pytest.approx(10 - math.hypot(2, own))
    assert found.high_s == pytest.approx(10 + math.hypot(3, own))
    assert summary(SERIAL, [0.0, 0.01, 10.0]).low_s == 0


def test_calls_that_grow_are_drawn_in_their_place() -> None:
    growing = profile(*(float(i) for i in range(100)), inputs=1000)
    assert has_trend(growing)
    drawn, weight = draw(growing, 1000, random.Random(1))
    assert weight == 1.0 and len(drawn) == 1000
    assert sum(drawn[:500]) < 0.6 * sum(drawn[500:])
    assert not has_trend(profile(*[1.0, 2.0] * 50))
    assert not has_trend(profile(*[1.0] * 50))


@pytest.mark.parametrize("items", [MOST_PIECES, MOST_PIECES + 1, 3 * MOST_PIECES])
def test_long_measured_job_is_drawn_in_pieces_that_add_up(items: int) -> None:
    drawn, weight = draw(profile(*(i % 7 + 1.0 for i in range(items))), items, random.Random(1))
    assert len(drawn) == MOST_PIECES and math.isclose(weight * MOST_PIECES, items)
    assert math.isclose(sum(drawn), sum(i % 7 + 1.0 for i in range(items)))


def test_pays_from_computed_by_hand() -> None:
    # 2 agents save half of a call of 1 ms with each item, and start in 10 ms.
    assert pays_from(profile(0.001, 0.001), costs(way(0.01), way(), way()), STOCK_MAP, 2) == 20
    assert pays_from(profile(0.001), FREE._replace(slowdown=(2.0,)), STOCK_MAP, 2) is None
    assert pays_from(profile(0.001), costs(way(0.0, 0.001), way(), way()), STOCK_MAP, 2) is None


@pytest.mark.parametrize(
    ("mean", "expected"),
    [(0.0, (0.0,)), (1e-6, (0.0, 4e-6)), (1e-3, (0.0, 2.5e-4, 1e-3, 4e-3)), (1.0, (0.0, LONGEST_S / 4, LONGEST_S))],
)
def test_stand_ins_take_about_as_long_as_the_calls(mean: float, expected: tuple[float, ...]) -> None:
    assert lengths(mean) == pytest.approx(expected)


def test_profile_of_the_first_inputs() -> None:
    whole = Profile(tuple(map(float, range(50))), tuple(range(0, 100, 2)), 100)
    assert part(whole, 60) == whole._replace(times_s=whole.times_s[:30], places=whole.places[:30], inputs=60)
    assert part(whole, 20) == whole  # ten of them are too few


# -- words ------------------------------------------------------------------------------------------------------------


def case(known: Profile, known_costs: Costs, items: int = 1000, count: int = 2) -> w.Case:
    return w.Case(known, known_costs, forecast(known, known_costs, items, count, rounds=2), items, count, 2)


EVEN = profile(*[0.001] * 1000)
TINY = profile(*[1e-6] * 1000)
SPREAD = profile(*[0.02] * 100, *[0.001] * 900)


@pytest.mark.parametrize(
    ("given", "verdict", "text"),
    [
        (
            case(EVEN, FREE),
            w.EITHER,
            "Use a pool: about 2x with 2 agents; the stock Pool and mpsteal.Pool take the same",
        ),
        (case(SPREAD, FREE._replace(ways=FREE.ways | {STOCK_IMAP: way(0, 0.01)})), w.MPSTEAL, "end unevenly"),
        (case(EVEN, costs(way(0, 0.001), way(0, 0.0005), way())), w.MPSTEAL, "way of the stock Pool (imap_unordered)"),
        (case(EVEN, costs(way(), way(), way(0, 0.0002))), w.STOCK, "loses less with each item"),
        (case(EVEN, costs(way(), way(), way(0.1))), w.STOCK, "starts and ends 100 ms sooner"),
        (
            case(TINY, costs(*[way(0, 3e-6)] * 3), 10**6),
            w.NO_POOL,
            "a call takes 1.00 us, to send it and its result costs 3.00 us",
        ),
        (
            case(EVEN, costs(*[way(0.1)] * 3)._replace(slowdown=(2.0,)), 5),
            w.NO_POOL,
            "the whole job takes 5.00 ms, to start and end one takes 100 ms",
        ),
        (case(TINY, costs(*[way(0.01)] * 3)), w.NO_POOL, "it begins to pay at about 20,000 items"),
        (case(EVEN, FREE, 1000, 1), w.NO_POOL, "there is one agent"),
        (case(EVEN, FREE._replace(slowdown=(1.9,))), w.NO_POOL, "1.9x as long"),
        (case(EVEN._replace(cpu_share=1.9), FREE._replace(slowdown=(1.9,))), w.NO_POOL, "1.9 CPUs busy by itself"),
        (case(EVEN._replace(cpu_share=0.02), FREE), w.THREADS, "a call waits 98%"),
        (case(profile(0.9, *[0.001] * 9), FREE, 10), w.NO_POOL, "one call of 900 ms is most of the job"),
        (case(EVEN, FREE._replace(slowdown=(1.7,))), w.EITHER, "it gains little, about 1.2x"),
    ],
)
def test_answer(given: w.Case, verdict: str, text: str) -> None:
    found = w.answer(given)
    assert (found.verdict, text in found.text) == (verdict, True), found


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (case(TINY, FREE), "give each about 1,000 items"),
        (case(EVEN._replace(argument_bytes=2e6), FREE), "pool.share(obj)"),
        (case(EVEN._replace(argument_bytes=2e4, argument_s=0.001), FREE), "arguments are large (20 KiB)"),
        (case(EVEN._replace(result_bytes=2e6), FREE), "results are large (1.9 MiB)"),
        (case(EVEN._replace(function_bytes=2e4), FREE), "the function carries 20 KiB"),
        (case(EVEN._replace(cpu_share=0.1), FREE), "ThreadPoolExecutor"),
        (case(EVEN._replace(cpu_share=0.6), FREE), "waits 40%"),
        (case(EVEN._replace(lost_share=0.4), FREE), "other programs had the core for 40%"),
        (case(EVEN._replace(cpu_share=1.8), FREE), "OMP_NUM_THREADS=1"),
        (case(EVEN, FREE._replace(slowdown=(1.5,))), "1.50x as long while all agents are busy"),
        (case(EVEN, FREE, count=8), "8 agents share 2 CPUs"),
        (case(SPREAD, FREE), "calls differ"),
        (case(profile(0.9, *[0.001] * 99), FREE, 100), "no pool ends sooner"),
        (case(EVEN._replace(first_s=0.5), FREE), "the very first call took 500 ms"),
        (case(EVEN._replace(remembers=True), FREE), "remembers"),
        (case(EVEN._replace(changes_argument=True), FREE), "changes its argument"),
        (case(EVEN._replace(is_repeatable=False), FREE), "two results for one input"),
        (case(profile(*[1.0] * 5, inputs=9), FREE, 9), "only 5 calls fitted"),
    ],
)
def test_tip(given: w.Case, text: str) -> None:
    assert any(text in tip for tip in w.tips(given)), w.tips(given)


def test_nothing_to_tell_of_a_plain_function() -> None:
    assert w.tips(case(EVEN, FREE)) == []


def test_table_and_check_have_a_line_for_each_way() -> None:
    found = case(EVEN, FREE)
    assert [line.split()[-1] for line in w.table(found)[1:]] == ["1.00x", "2.00x", "2.00x", "2.00x"]
    lines = w.checked(found.forecasts, {name: [0.8, 1.25, 2.0] for name in found.forecasts})
    assert [line.split()[-1] for line in lines[1:]] == ["-20%", "-60%", "-60%", "-60%"]
    assert "800 ms .. 2.00 s" in lines[1]
    assert all(len(line) < 120 for line in w.table(found) + lines)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00 us"), (8.12e-7, "0.81 us"), (8.12e-6, "8.12 us"), (0.0812, "81.2 ms"), (0.812, "812 ms"),
     (0.9999, "1.00 s"), (1.0, "1.00 s"), (99.94, "99.9 s"), (1234.0, "1234 s")],
)  # fmt: skip
def test_times_have_three_digits(value: float, text: str) -> None:
    assert w.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(12, "12 B"), (2048, "2.0 KiB"), (102400, "100 KiB"), (3 << 20, "3.0 MiB"), (5 << 30, "5.0 GiB")],
)
def test_sizes(value: float, text: str) -> None:
    assert w.size(value) == text


def test_check_is_made_with_as_many_inputs_as_fit() -> None:
    found = case(profile(*[0.01] * 100), FREE, 100)  # a loop of 1 s and three pools of 0.5 s
    assert size_of_trial(found, 100, 13.0)[:2] == (100, 5)
    assert size_of_trial(found, 100, 8.0)[:2] == (100, 3)
    count, times, predicted = size_of_trial(found, 100, 5.0)
    assert 50 < count < 70 and times == 3
    assert predicted[SERIAL].seconds == pytest.approx(0.01 * count)
    assert size_of_trial(found, 50, 8.0)[0] == 50


def test_check_that_does_not_fit_is_left_out_and_said() -> None:
    found = case(profile(*[10.0] * 100), FREE, 100)
    count, times, predicted = size_of_trial(found, 100, 5.0)
    assert (count, times) == (0, 0)
    text = trial_in_words(None, predicted, found.profile, 20.0)
    assert text == "\nnot checked: one run of each way takes about 200 s; --time-limit is 20 s\n"


# -- finding the function and its inputs ------------------------------------------------------------------------------

SCRIPT = """
import sys
seen = sys.argv, sys.path[0], __name__
LIMIT = 7
def work(x):
    return x + 1
class Kind:
    @staticmethod
    def work(x):
        return x + 2
async def later(x):
    return x
def make():
    return (i * i for i in range(LIMIT))
number = 5
if __name__ == "__main__":
    raise SystemExit("the guard does not hold")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a script, in which this process is; its main module and paths are kept."""
    (tmp_path / "a-script.py").write_text(SCRIPT)
    (tmp_path / "advise_other.py").write_text("import advise_beside\nnumbers = advise_beside.numbers\n")
    (tmp_path / "advise_beside.py").write_text("numbers = [3] * 9\n")
    (tmp_path / "advise_broken.py").write_text("def f(x):\n    return x\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    with kept_surroundings():
        yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith("advise_"):
            del sys.modules[name]


def test_script_is_loaded_as_spawned_children_load_it(here: Path) -> None:
    target = find_function("a-script.py:work")
    assert target.function(1) == 2
    assert target.module.seen == (["a-script.py"], str(here), "__mp_main__")
    assert sys.modules["__main__"] is sys.modules["__mp_main__"] is target.module
    assert find_function("a-script.py:Kind.work").function(1) == 3


def test_module_is_imported_from_the_current_directory(here: Path) -> None:
    (here / "advise_module.py").write_text("def f(x):\n    return x\n")
    assert find_function("advise_module:f").function.__module__ == "advise_module"


def test_surroundings_are_as_before() -> None:
    before = sys.argv, list(sys.path), sys.modules["__main__"], sys.modules.get("__mp_main__")
    with kept_surroundings():
        sys.argv, sys.path[:] = ["x"], ["y"]
        sys.modules["__main__"] = sys.modules["__mp_main__"] = sys
    assert before == (sys.argv, list(sys.path), sys.modules["__main__"], sys.modules.get("__mp_main__"))


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("a-script.py", 2, "names no function: write script.py:function"),
        ("none.py:work", 2, "cannot open 'none.py'"),
        ("no.such.module:work", 2, "there is no module 'no.such.module'"),
        ("advise_beside.more:work", 2, "there is no module"),
        ("advise_other:wrok", 2, "there is no 'wrok' in advise_other"),
        ("a-script.py:wrok", 2, "did you mean work?"),
        ("a-script.py:LIMIT", 2, "is no function, but int 7"),
        ("a-script.py:later", 2, "coroutine function"),
        ("advise_broken:f", 1, "ZeroDivisionError"),
        ("advise_broken.py:f", 1, "advise_broken.py could not be loaded:\nTraceback"),
    ],
)
def test_what_is_no_function_is_told(here: Path, target: str, status: int, text: str) -> None:
    with pytest.raises(AdviceError) as caught:
        find_function(target)
    assert (caught.value.exit_status, text in str(caught.value)) == (status, True), caught.value
    assert "_advise" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("range(LIMIT)", list(range(7))),
        ("[number] * LIMIT", [5] * 7),
        ("make", [i * i for i in range(7)]),
        ("make()", [i * i for i in range(7)]),
        ("lambda: range(6)", list(range(6))),
        ("list(range(9))[1:8]", list(range(1, 8))),
        ("a-script.py:make", [i * i for i in range(7)]),
        ("advise_other.py:numbers", [3] * 9),
        ("advise_beside:numbers", [3] * 9),
    ],
)
def test_inputs(here: Path, text: str, expected: list[int]) -> None:
    assert find_inputs(text, find_function("a-script.py:work")) == Inputs(expected, False)


def test_endless_inputs_are_cut(here: Path) -> None:
    found = find_inputs("__import__('itertools').count()", find_function("a-script.py:work"))
    assert found.is_cut and found.items == list(range(MOST_INPUTS))


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("range(", 2, "no Python expression"),
        ("number", 2, "gives int 5, which has no items"),
        ("range(4)", 2, "gives 4 inputs; at least 5"),
        ("missing", 1, "NameError"),
        ("(1 // (3 - i) for i in range(9))", 1, "ZeroDivisionError"),
        ("none.py:numbers", 2, "cannot open 'none.py'"),
        ("advise_beside:n", 2, "there is no 'n'"),
    ],
)
def test_what_are_no_inputs_is_told(here: Path, text: str, status: int, words: str) -> None:
    target = find_function("a-script.py:work")
    with pytest.raises(AdviceError) as caught:
        find_inputs(text, target)
    assert (caught.value.exit_status, words in str(caught.value)) == (status, True), caught.value


def test_inputs_from_files(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a\n b \n\nc\nd")
    assert read_file(str(tmp_path / "lines.txt")).items == ["a", " b ", "", "c", "d"]
    (tmp_path / "array.json").write_text('[1, [2], {"a": 3}, null, "x"]')
    assert read_file(str(tmp_path / "array.json")).items == [1, [2], {"a": 3}, None, "x"]
    (tmp_path / "object.json").write_text('{"a": 1}')
    (tmp_path / "broken.json").write_text("[1, 2")
    for name, text in (("object", "no JSON array, but a dict"), ("broken", "cannot read"), ("none", "cannot open")):
        with pytest.raises(AdviceError, match=text) as caught:
            read_file(str(tmp_path / f"{name}.json"))
        assert caught.value.exit_status == 2


# -- the sample -------------------------------------------------------------------------------------------------------

calls: list[Any] = []


def note(x: int) -> int:
    calls.append(x)
    return -x


def count_calls(x: int) -> int:
    calls.append(x)
    return len(calls)


def sort_it(values: list[int]) -> int:
    values.sort()
    return values[0]


def fail_at_7(x: int) -> int:
    if x == 7:
        raise LookupError("seven")
    return x


def give_lambda(x: int) -> Any:
    return lambda: x


@functools.lru_cache
def cached(x: int) -> int:
    calls.append(x)
    return x


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


def test_every_input_is_measured_where_there_is_time() -> None:
    found = measure(note, range(200), 60.0)
    assert found.profile.places == tuple(range(200)) and found.profile.inputs == 200
    assert len(found.profile.times_s) == 200 and min(found.profile.times_s) >= 0
    assert set(calls) == set(range(200))
    assert found.results == [-argument for argument in found.arguments] and 0 < len(found.results) <= 64
    assert [range(200)[place] for place in found.places] == found.arguments
    assert found.profile.is_repeatable and not found.profile.changes_argument
    assert found.profile.argument_bytes > 0 and found.profile.function_bytes > len("note")


def test_few_calls_where_there_is_none() -> None:
    found = measure(note, range(200), 0.0)
    assert len(found.profile.times_s) == 3
    assert all(0 <= place < 200 for place in found.profile.places)


@pytest.mark.parametrize(
    ("cpu_s", "waits", "calls", "expected"),
    [
        (0.5, 100, 100, (0.5, 0.0)),  # waits in each call
        (0.5, 0, 100, (1.0, 0.5)),  # never waited: others had the core
        (0.5, 0, 3, (1.0, 0.5)),
        (0.5, 1, 3, (0.5, 0.0)),
        (1.9, 0, 100, (1.9, 0.0)),  # threads of its own
    ],
)
def test_waiting_is_told_from_losing_the_core(
    cpu_s: float, waits: int, calls: int, expected: tuple[float, float]
) -> None:
    assert share(cpu_s, 1.0, waits, calls) == pytest.approx(expected)


def test_function_of_chance_is_known() -> None:
    assert not measure(count_calls, range(10), 60.0).profile.is_repeatable


def test_changed_argument_is_known_and_the_inputs_stay() -> None:
    inputs = [[3, 2, i] for i in range(10)]
    found = measure(sort_it, inputs, 60.0)
    assert found.profile.changes_argument
    assert sum(values == sorted(values) for values in inputs) <= 1  # the one it was found by


def test_cache_is_emptied_before_the_calls_are_timed() -> None:
    measure(cached, range(10), 60.0)
    assert sorted(calls) == sorted([*range(10), calls[0]])


@pytest.mark.parametrize(
    ("function", "inputs", "text"),
    [
        (fail_at_7, range(10), "failed on input number 7, 7:\nTraceback"),
        (lambda x: x, range(10), "define it with `def` at the top level of its module"),
        (note, [lambda: 1] * 10, "cannot be pickled, so it cannot go to another process"),
        (give_lambda, range(10), "a result cannot be pickled"),
    ],
)
def test_what_cannot_be_measured_is_told(function: Callable[[Any], Any], inputs: Any, text: str) -> None:
    with pytest.raises(AdviceError) as caught:
        measure(function, inputs, 60.0)
    assert (caught.value.exit_status, text in str(caught.value)) == (1, True), caught.value


# -- results ----------------------------------------------------------------------------------------------------------


def test_same() -> None:
    numpy = pytest.importorskip("numpy")
    assert same(1, 1.0) and same(math.nan, float("nan")) and same(numpy.ones(3), numpy.ones(3))
    assert not same(1, 2) and not same(numpy.ones(3), numpy.zeros(3)) and not same(print, len)


@pytest.mark.parametrize("values", [[1, 2, 3, 2], [[1], [2], [2]], [{1: 2, 3: 4}, [0]], [math.nan, 1.0]])
def test_equal_in_order_and_in_any(values: list[Any]) -> None:
    turned = [dict(reversed(v.items())) if isinstance(v, dict) else v for v in reversed(values)]
    assert equal(values, list(values)) and equal(values, turned, ordered=False)
    assert not equal(values, values[:-1], ordered=False)
    assert not equal(values, [*turned[:-1], "other"], ordered=False)
    assert values == turned or not equal([0, *values], [*values, 0])


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["a-script.py:work"],
        ["a-script.py:work", "--inputs", "make", "--inputs-file", "x"],
        ["a-script.py:work", "--inputs", "make", "--agents", "0"],
        ["a-script.py:work", "--inputs", "make", "--time-limit", "0"],
    ],
)
def test_usage_error(here: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: mpsteal advise" in capsys.readouterr().err


def test_error_ends_with_its_status_and_one_message(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_module = sys.modules["__main__"]
    assert main(["a-script.py:wrok", "--inputs", "make"]) == 2
    assert capsys.readouterr().err == "mpsteal advise: there is no 'wrok' in a-script.py; did you mean work?\n"
    assert sys.modules["__main__"] is main_module
