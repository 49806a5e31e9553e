"""Question: what does a fault cost in mpsteal.Pool, and in the pools that one would use instead?

Each scene of `bench._fault_scenes` is staged with each pool in a process of its own, one at a time, in turns, and ends
in a verdict: "ok" is what the scene's own sentence says, the same for all. `bench._fault_child` looks at what is left.

Not told: how a pool does in the hands of one who knows its options (each is used as its documentation's first page
does), and how often a fault with a race in it goes well: two or three rounds tell what can happen, not how likely it
is. A hang is ten seconds of silence. Peers come with an extra, ``pip install '.[peers]'``; those that are missing are
named and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import _fault_child, _fault_pools, _fault_scenes, _machine, _report
from bench._fault_scenes import Scene

RESULTS = Path(__file__).parent / "results" / "faults.json"
SCHEMA = 1
WAIT_S = 10.0
"""Silence that counts as a hang. A pool that is no faster than this to notice a death is told as one that hangs; chosen
by hand, above the slowest reaction seen (5 s)."""


@dataclass
class Run:
    """What one scene came to with one pool; ``error`` says that there is no verdict."""

    scene: str
    pool: str
    round: int
    verdict: str = ""
    detail: list[str] = field(default_factory=list)
    took_s: float = 0.0
    error: str = ""
    made: str = field(default_factory=_machine.now)
    commit: str | None = None  # of this checkout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pools = ",".join(_fault_pools.ADAPTERS)
    parser.add_argument("--rounds", type=int, help="rounds per scene (default 2, with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these scenes")
    parser.add_argument("--pools", default=pools, metavar="A,B", help=f"default {pools}")
    parser.add_argument("--wait", type=float, default=WAIT_S, metavar="S", help="silence that is a hang (10)")
    parser.add_argument("--list", action="store_true", help="name the scenes and what counts as ok")
    parser.add_argument("--json", type=Path, metavar="PATH", help=f"a full run writes {RESULTS.name}, others nothing")
    parser.add_argument(
        "--update",
        action="store_true",
        help="put these scenes and pools in the place of theirs in the file, keep others",
    )


def measure_once(scene: Scene, pool: str, round_number: int, *, wait_s: float, quick: bool) -> Run:
    """Stage one scene in processes of its own; never raises for what happens inside."""
    run = Run(scene.name, pool, round_number)
    if scene.shm_mib and not _fault_child.has_namespaces():
        run.verdict, run.detail = "skipped", ["needs a mount namespace (unshare), which this system does not give"]
        return run
    line, environment = _fault_child.command(scene.name, pool, wait_s=wait_s, quick=quick, shm_mib=scene.shm_mib)
    limit_s = scene.limit_s + 10 * wait_s + 60
    child = subprocess.Popen(
        line, cwd=_machine.ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        out, err = child.communicate(timeout=limit_s)
    except BaseException as error:
        child.kill()
        child.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        run.error = f"the watcher gave no answer within {limit_s:.0f} s"
        return run
    try:
        answer: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    except (IndexError, ValueError):
        run.error = (err.strip().splitlines() or [f"the watcher ended with {child.returncode}"])[-1][:300]
        return run
    run.verdict, run.took_s, run.error = answer["verdict"], answer["took_s"], answer.get("error", "")
    run.detail = list(dict.fromkeys(answer["detail"]))
    if run.error:
        print(answer.get("stderr", ""), file=sys.stderr)
    return run


def merged(verdicts: Sequence[str]) -> str:
    """One cell: the verdict, or each with how often it came, where rounds differ."""
    counted = Counter(verdicts)
    if len(counted) == 1:
        return verdicts[0]
    return "; ".join(f"{verdict} ({times} of {len(verdicts)})" for verdict, times in counted.most_common())


def cell(runs: Sequence[dict[str, Any]], scene: str, pool: str) -> str:
    """What stands in the table for a scene and a pool, from the runs as the JSON has them."""
    mine = [run for run in runs if run["scene"] == scene and run["pool"] == pool]
    return merged([f"error: {run['error']}" if run["error"] else run["verdict"] for run in mine]) if mine else "-"


def score(runs: Sequence[dict[str, Any]], scenes: Sequence[str], pool: str) -> str:
    """In how many scenes every round was ok, of those that say anything about this pool."""
    cells = [cell(runs, scene, pool) for scene in scenes]
    told = [text for text in cells if text not in ("-", "skipped", _fault_scenes.NO_FEATURE)]
    return f"{sum(text == 'ok' for text in told)} of {len(told)}"


def _rows(runs: Sequence[dict[str, Any]], scenes: Sequence[Scene], pools: Sequence[str]) -> Iterator[tuple[str, ...]]:
    yield ("scene", *pools)
    for scene in scenes:
        yield (scene.name, *(cell(runs, scene.name, pool) for pool in pools))
    yield ("ok", *(score(runs, [scene.name for scene in scenes], pool) for pool in pools))


def table(runs: Sequence[dict[str, Any]], scenes: Sequence[Scene], pools: Sequence[str]) -> str:
    rows = list(_rows(runs, scenes, pools))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    rows.insert(-1, tuple("-" * width for width in widths))
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def choose_pools(names: str) -> list[str]:
    """The pools asked for that are installed; the others are told."""
    wanted = [name for name in names.split(",") if name]
    unknown = [name for name in wanted if name not in _fault_pools.ADAPTERS]
    if unknown or not wanted:
        raise SystemExit(f"no pool called {', '.join(unknown)!r}; choose from {','.join(_fault_pools.ADAPTERS)}")
    missing = [name for name in wanted if not _fault_pools.is_installed(name)]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}; {_fault_pools.INSTALL}", file=sys.stderr)
    return [name for name in wanted if name not in missing]


def run(args: argparse.Namespace) -> int:
    """Return 0 if every run came to a verdict and mpsteal's are all ok, else 1; usage errors exit 2."""
    scenes = _fault_scenes.select(args.only)
    if args.list:
        for scene in scenes:
            print(f"{scene.name:18} {scene.title}\n{'':20}ok: {scene.ok}")
        return 0
    rounds = args.rounds if args.rounds is not None else (1 if args.quick else 2)
    if rounds < 1:
        raise SystemExit("--rounds must be 1 or more")
    if args.update and not (args.json or RESULTS).exists():
        raise SystemExit(f"--update: there is no {args.json or RESULTS} to put these runs in")
    pools = choose_pools(args.pools)
    machine = _machine.describe() | {"private_shm": _fault_child.has_namespaces(), "niceness": os.nice(0)}
    began = time.monotonic()
    done: list[Run] = []
    for scene in scenes:
        for round_number in range(rounds):
            for pool in pools:
                one = measure_once(scene, pool, round_number, wait_s=args.wait, quick=args.quick)
                done.append(one)
                words = one.error or one.verdict
                print(f"  {scene.name} round {round_number + 1} {pool}: {words}", file=sys.stderr, flush=True)
    for one in done:
        one.commit = machine["commit"]
    runs = [asdict(one) for one in done]
    print(table(runs, scenes, pools))
    failed = sum(bool(one.error) for one in done)
    print(f"{len(done)} runs, {failed} without a verdict")
    is_full = not (args.only or args.quick) and set(pools) == set(_fault_pools.ADAPTERS) and args.wait == WAIT_S
    path = args.json or (RESULTS if is_full or args.update else None)
    if path is not None:
        settings = {
            "command": "faults",
            "rounds": rounds,
            "quick": args.quick,
            "wait_s": args.wait,
            "took_s": round(time.monotonic() - began, 1),
        }
        data = document(runs, scenes, pools, machine=machine, settings=settings)
        _report.write(path, updated(json.loads(path.read_text()), data) if args.update else data)
        print(f"written: {path}")
    ours_failed = any(
        one.verdict not in ("ok", "skipped", _fault_scenes.NO_FEATURE) for one in done if one.pool == "mpsteal"
    )
    return 1 if failed or ours_failed else 0


def document(
    runs: list[dict[str, Any]],
    scenes: Sequence[Scene],
    pools: Sequence[str],
    *,
    machine: dict[str, Any],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Everything seen and everything it depends on, as plain data."""
    adapters = {pool: _fault_pools.load(pool) for pool in pools}
    return {
        "schema": SCHEMA,
        "made": _machine.now(),
        "settings": settings,
        "machine": machine,
        "pools": {
            pool: {"version": one.version(), "start_method": one.start_method()} for pool, one in adapters.items()
        },
        "scenes": [{"name": scene.name, "title": scene.title, "ok": scene.ok} for scene in scenes],
        "runs": runs,
    }


def updated(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """``old`` with the runs of ``new`` in the place of those of the same scenes and pools.

    Each run says when it was made and from which commit; settings and machine stay those of the first run.
    """
    for key in ("system", "processor", "cores_usable", "python"):
        if old["machine"][key] != new["machine"][key]:
            raise SystemExit(f"another machine ({key}): figures of two machines do not go into one file")
    for key in ("quick", "wait_s"):
        if old["settings"][key] != new["settings"][key]:
            raise SystemExit(f"other settings ({key}): they do not go into one file")
    covered = {(run["scene"], run["pool"]) for run in new["runs"]}
    scenes = {scene["name"]: scene for scene in [*old["scenes"], *new["scenes"]]}
    return old | {
        "pools": old["pools"] | new["pools"],
        "scenes": [scenes[name] for name in _fault_scenes.names() if name in scenes],
        "runs": [run for run in old["runs"] if (run["scene"], run["pool"]) not in covered] + new["runs"],
    }
