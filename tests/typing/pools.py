"""What type checkers make of a Pool. Never run: mypy and pyright read it (`tests/unit/test_typing.py`, `.ci/run`).

`assert_type` says what must be inferred. A line with `type: ignore` is a mistake that must be found: both checkers say
so when there is nothing to ignore.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator

from typing_extensions import assert_type

import mpsteal
from mpsteal import AsyncResult, Failure, IMapIterator, IMapUnorderedIterator, MapResult, Pool
from mpsteal.stats import AgentStats


def length(word: str) -> int:
    return len(word)


def join(word: str, times: int, *, between: str = "") -> str:
    return between.join([word] * times)


def prepare(level: int) -> bool:
    return level > 0


def on_length(value: int) -> None: ...


def on_lengths(values: list[int]) -> None: ...


def on_word(value: str) -> None: ...


def on_error(error: BaseException) -> str:
    return str(error)


words = ["a", "bb"]


def making() -> None:
    with Pool(2, prepare, (1,), 100, "spawn", max_age=60, max_rss=1 << 30) as pool:
        assert_type(pool, Pool)
    Pool(context=multiprocessing.get_context("fork"), stuck_after=None)
    Pool("2")  # type: ignore[arg-type]
    Pool(context=3)  # type: ignore[arg-type]
    Pool(initializer=1)  # type: ignore[arg-type]

    class Own(Pool):
        def hello(self) -> None: ...

    with Own() as own:
        own.hello()


def single_calls(pool: Pool) -> None:
    assert_type(pool.apply(length, ("a",)), int)
    assert_type(pool.apply(join, ("a", 2), {"between": "-"}, timeout=1.5, retries=2), str)
    handle = pool.apply_async(length, ["a"], {}, on_length, on_error)
    assert_type(handle, AsyncResult[int])
    assert_type(handle.get(1.0), int)
    assert_type(handle.ready(), bool)
    assert_type(handle.cancel(), bool)
    pool.apply_async(length, callback=on_word)  # type: ignore[misc]
    pool.apply_async(length, timeout="1")  # type: ignore[arg-type]
    pool.apply(3)  # type: ignore[arg-type]


def maps(pool: Pool) -> None:
    assert_type(pool.map(length, words), list[int])
    assert_type(pool.map(length, iter(words), 10, timeout=1, retries=1), list[int])
    assert_type(pool.map(str, range(3)), list[str])
    assert_type(pool.starmap(join, [("a", 1), ("b", 2)]), list[str])
    pool.map(length, [1, 2])  # type: ignore[arg-type]
    pool.map(length, 3)  # type: ignore[call-overload]
    pool.map(on_lengths, words)  # type: ignore[arg-type]
    pool.map(length, words, chunk_size=3)  # type: ignore[call-overload]
    pool.starmap(join, [1, 2])  # type: ignore[list-item]


def maps_with_handles(pool: Pool) -> None:
    lengths = pool.map_async(length, words, None, on_lengths, on_error)
    assert_type(lengths, MapResult[int])
    assert_type(lengths.get(), list[int])
    assert_type(pool.starmap_async(join, [("a", 1)]).get(), list[str])
    pool.map_async(length, words, callback=on_length)  # type: ignore[arg-type]


def iterators(pool: Pool) -> None:
    lengths = pool.imap(length, words, 10, buffersize=100)
    assert_type(lengths, IMapIterator[int])
    assert_type(next(lengths), int)
    assert_type(lengths.next(timeout=1.0), int)
    assert_type(list(lengths), list[int])
    assert_type(pool.imap_unordered(length, words), IMapUnorderedIterator[int])
    for each in pool.imap_unordered(length, words):
        assert_type(each, int)
    takes_iterator(lengths)
    pool.imap(length, range(3))  # type: ignore[arg-type]


def takes_iterator(lengths: Iterator[int]) -> Iterable[int]:
    return lengths


def outcomes(pool: Pool) -> None:
    assert_type(pool.map(length, words, on_error="collect"), list[int | Failure])
    assert_type(pool.map(length, words, on_error="cancel", progress=True), list[int])
    assert_type(pool.starmap(join, [("a", 1)], on_error="collect", progress="joining"), list[str | Failure])
    assert_type(pool.map_async(length, words, on_error="collect"), MapResult[int | Failure])
    assert_type(pool.starmap_async(join, [("a", 1)], on_error="raise"), MapResult[str])
    assert_type(pool.imap(length, words, on_error="collect", buffersize=3), IMapIterator[int | Failure])
    for each in pool.imap_unordered(length, words, on_error="collect", timeout=1.0):
        if isinstance(each, Failure):
            assert_type(each.error, BaseException)
            assert_type(each.index, int)
        else:
            assert_type(each, int)
    assert_type(pool.map_async(length, words).cancel(), bool)
    pool.map(length, words, on_error="ignore")  # type: ignore[call-overload]
    pool.map(length, words, progress=3)  # type: ignore[call-overload]


def handles_in_collections(pool: Pool) -> None:
    handles: list[AsyncResult[int]] = [pool.apply_async(length, (word,)) for word in words]
    assert_type([handle.get() for handle in handles], list[int])
    as_base: AsyncResult[list[int]] = pool.map_async(length, words)
    assert_type(as_base.get(), list[int])
    wrong: AsyncResult[str] = pool.apply_async(length, ("a",))  # type: ignore[arg-type]
    wrong.get()


def facts(pool: Pool) -> None:
    stats = pool.stats()
    assert_type(stats.agents, tuple[AgentStats, ...])
    assert_type(stats.tasks_done, int)


def contexts() -> None:
    context = mpsteal.get_context("spawn")
    assert_type(context.Pool(2), Pool)
    assert_type(context.cpu_count(), int)
    context.Process(target=prepare, args=(1,)).start()
    Pool(context=context)


def errors(pool: Pool) -> None:
    try:
        pool.map(length, words)
    except mpsteal.AgentDiedError as error:
        assert_type(error.pid, int)
        assert_type(error.exitcode, int | None)
        assert_type(error.items, range | None)
    except mpsteal.TaskTimeoutError as error:
        assert_type(error.timeout_s, float)
    except mpsteal.RemoteError as error:
        assert_type(error.traceback_text, str)
