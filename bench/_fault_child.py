"""One scene of `bench.faults`, once: ``python -m bench._fault_child watch sigkill mpsteal`` prints one JSON object.

Two processes. The scene's own one stages the fault and is part of it: it may hang, be killed or become another program.
The watcher is outside: it waits, ends what must be ended, and looks at what is left::

    watcher --starts--> scene's process (session of its own) --opens--> the pool's workers
       |                    | writes `ready` and `verdict` into a private folder
       '--- reads these, then counts processes, /dev/shm and the folder for temporary files

The processes of a scene are known by a word in their environment, which children inherit; so nobody else's are touched.
Where the system lets an unprivileged user have a mount namespace (Linux), the watcher is started in one (`command`) and
has a /dev/shm of its own: what is left there is the scene's. Without, nobody could tell whose a file there is, and
none is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

GRACE_S = 2.0
"""How long a pool's processes may outlive the pool or its parent: the promise of the issue, for all."""

MARK = "MPSTEAL_BENCH_FAULT_MARK"
SHM = Path("/dev/shm")
PRIVATE = "MPSTEAL_BENCH_FAULT_PRIVATE"  # set where /dev/shm is the scene's own


@functools.cache
def has_namespaces() -> bool:
    """Whether `unshare` gives us a /dev/shm of our own."""
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return False
    done = subprocess.run([*_in_namespace(1), "true"], capture_output=True, check=False)
    return done.returncode == 0


def _in_namespace(shm_mib: int) -> list[str]:
    script = 'mount -t tmpfs -o "size=$0" tmpfs /dev/shm && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, f"{shm_mib}m"]


def command(scene: str, pool: str, *, wait_s: float, quick: bool, shm_mib: int) -> tuple[list[str], dict[str, str]]:
    """What runs one scene, and its environment. A scene that asks for a small /dev/shm needs `has_namespaces`."""
    line = [sys.executable, "-m", "bench._fault_child", "watch", scene, pool, f"--wait={wait_s}"]
    environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": ""}
    if quick:
        line.append("--quick")
    if has_namespaces():
        line = _in_namespace(shm_mib or 8192) + line
        environment[PRIVATE] = "1"
    return line, environment


# -- the watcher ------------------------------------------------------------------------------


class Watcher:
    """Runs one scene and says what came of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        from bench import _fault_scenes

        (self.scene,) = _fault_scenes.select([args.scene])
        self.args = args
        self.mark = secrets.token_hex(8)
        self.folder = Path(tempfile.mkdtemp(prefix="bench-faults-"))
        self.notes, self.temporary = self.folder / "notes", self.folder / "tmp"
        self.notes.mkdir()
        self.temporary.mkdir(mode=0o700)
        self.shm_before = self._shm()

    def run(self) -> dict[str, Any]:
        began = time.monotonic()
        line = [sys.executable, "-m", "bench._fault_child", "stage", self.args.scene, self.args.pool]
        line += [f"--wait={self.args.wait}", f"--folder={self.notes}"] + ["--quick"] * self.args.quick
        variables = {MARK: self.mark, "TMPDIR": str(self.temporary), "XDG_RUNTIME_DIR": str(self.temporary)}
        errors = self.notes / "stderr"
        try:
            with errors.open("wb") as stderr:
                child = subprocess.Popen(
                    line, env=os.environ | variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=stderr, start_new_session=True,
                )  # fmt: skip
            answer = self._exit(child) if self.scene.ends == "exit" else self._parent_ends(child)
            answer["took_s"] = round(time.monotonic() - began, 2)
            answer.setdefault("detail", [])
            if "error" in answer:
                answer["stderr"] = errors.read_text(errors="replace")[-2000:]
            return answer
        finally:
            self._clean()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _exit(self, child: subprocess.Popen[bytes]) -> dict[str, Any]:
        """The scene judges itself; here the end of its process and what is left is judged."""
        try:
            code = child.wait(self.scene.limit_s + 4 * self.args.wait)
        except subprocess.TimeoutExpired:
            code = None
        path = self.notes / "verdict"
        if not path.exists():
            if code is None:
                return {"verdict": "hangs", "detail": ["no verdict within the scene's limit"]}
            return {"verdict": "", "error": f"the scene ended with {code} and no verdict"}
        answer: dict[str, Any] = json.loads(path.read_text())
        if "error" in answer:
            return answer
        parts = [] if answer["verdict"] == "ok" else [answer["verdict"]]
        if code is None:
            parts.append("hangs at exit")
        elif answer["verdict"] not in ("hangs", "no such feature") and not answer.get("gave_up"):
            parts += self._leaks(child.pid, answer)
        answer["verdict"] = ", ".join(parts) or "ok"
        return answer

    def _parent_ends(self, child: subprocess.Popen[bytes]) -> dict[str, Any]:
        """The scene's process is ended from here, or ends itself; nothing may stay for longer than `GRACE_S`."""
        ready = self.notes / "ready"
        until = time.monotonic() + 4 * self.args.wait
        while not ready.exists():
            if child.poll() is not None or time.monotonic() > until:
                if (self.notes / "verdict").exists():
                    return dict(json.loads((self.notes / "verdict").read_text()))
                return {"verdict": "", "error": f"the scene was not set (exit code {child.poll()})"}
            time.sleep(0.005)
        others = json.loads(ready.read_text()).get("others", [])
        answer: dict[str, Any] = {"detail": []}
        parts = []
        began = time.monotonic()
        if self.scene.ends == "interrupt":
            time.sleep(1.0)  # it tells us before it calls map; so it has begun
            began = time.monotonic()
            os.killpg(child.pid, signal.SIGINT)
            try:
                child.wait(self.args.wait)
            except subprocess.TimeoutExpired:
                return {"verdict": f"wrong: goes on for {self.args.wait:.0f} s", "detail": []}
            took = time.monotonic() - began
            answer["detail"].append(f"exit after {took:.1f} s")
            if took > GRACE_S:
                parts.append(f"wrong: ends after {took:.0f} s")
            text = (self.notes / "stderr").read_text(errors="replace")
            count = text.count("Traceback (most recent call last)")
            if count != 1:
                parts.append(f"wrong: {count} tracebacks")
        elif self.scene.ends == "killed":
            child.kill()
            child.wait()
        parts += self._leaks(child.pid, answer, others=others, began=began)
        answer["verdict"] = ", ".join(parts) or "ok"
        return answer

    def _leaks(
        self, pid: int, answer: dict[str, Any], *, others: list[int] | None = None, began: float | None = None
    ) -> list[str]:
        """What is left `GRACE_S` after the end; ``pid`` may live on only where it became another program."""
        began = time.monotonic() if began is None else began
        known = {pid, *(others or [])}
        while left := [p for p in self._processes() if p.pid not in known]:
            if time.monotonic() > began + GRACE_S:
                break
            time.sleep(0.02)
        else:
            answer["detail"].append(f"all gone after {time.monotonic() - began:.2f} s")
        found = []
        if left:
            found.append(f"leaks {len(left)} process{'es' if len(left) > 1 else ''}")
            return found  # their files are in use still
        files = self._shm() - self.shm_before
        if files:
            found.append(f"leaks {len(files)} in /dev/shm")
            answer["detail"].append("left: " + " ".join(sorted(files))[:120])
        remains = [path.name for path in self.temporary.iterdir()]
        if remains:
            found.append(f"leaks {len(remains)} in the temporary folder")
            answer["detail"].append("left: " + " ".join(sorted(remains))[:120])
        return found

    def _processes(self) -> list[Any]:
        """Living processes that carry our mark; zombies are nobody's fault but init's."""
        import psutil

        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                is_ours = process.pid != os.getpid() and process.environ().get(MARK) == self.mark
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _shm(self) -> set[str]:
        if PRIVATE not in os.environ:
            return set()
        try:
            return {entry.name for entry in os.scandir(SHM) if entry.stat(follow_symlinks=False).st_uid == os.getuid()}
        except OSError:
            return set()

    def _clean(self) -> None:
        """Kill all that carries our mark, until none is left: a pool may start new ones meanwhile."""
        import psutil

        quiet = 0
        for _ in range(500):
            left = self._processes()
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            quiet = 0 if left else quiet + 1
            if quiet == 2:
                return
            time.sleep(0.02)


# -- the scene's process ------------------------------------------------------------------------


def stage(args: argparse.Namespace) -> None:
    """Stage the scene, write the verdict, end the pool, and end as any program does, unless somebody hangs."""
    from bench import _fault_pools, _fault_scenes

    # A shell that starts us in the background has SIGINT ignored, which children inherit; here it must count.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    (scene,) = _fault_scenes.select([args.scene])
    world = _fault_scenes.World(_fault_pools.load(args.pool), Path(args.folder), args.wait, args.quick)
    answer: dict[str, Any] = {}
    try:
        answer["verdict"] = scene.stage(world)
    except _fault_scenes.Hang as error:
        answer["verdict"] = "hangs"
        world.say(str(error))
    except Exception as error:
        if scene.ends == "interrupt":
            raise
        # Opening or submitting where nothing should be wrong yet: a fault of the scene, or of the pool. Told apart by
        # a reader.
        import traceback

        traceback.print_exc()
        answer.update(verdict="", error=f"{type(error).__name__}: {error}"[:300])
    give_up = answer["verdict"] == "hangs"
    if world.open and not give_up:
        try:
            world.within(world.pool.end, "the pool does not end")
        except _fault_scenes.Hang:
            give_up = True
            answer["verdict"] = (
                "hangs at the end" if answer["verdict"] == "ok" else f"{answer['verdict']}, hangs at the end"
            )
        except Exception as error:
            world.say(f"at the end: {type(error).__name__}: {error}"[:160])
    answer.update(detail=world.detail, gave_up=give_up)
    path = Path(args.folder) / "verdict"
    path.with_suffix(".tmp").write_text(json.dumps(answer))
    path.with_suffix(".tmp").rename(path)
    if give_up:
        os._exit(0)  # what is left is cleaned by the watcher
    alarm = threading.Timer(args.wait, os._exit, (9,))  # never seen by who ends in time
    alarm.daemon = True
    alarm.start()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench._fault_child", description="Run one scene once.")
    parser.add_argument("part", choices=("watch", "stage"))
    parser.add_argument("scene")
    parser.add_argument("pool")
    parser.add_argument("--wait", type=float, default=10.0, help="silence that counts as a hang (s)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", default="")
    args = parser.parse_args()
    if args.part == "stage":
        stage(args)
    else:
        print(json.dumps(Watcher(args).run()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
