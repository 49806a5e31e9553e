"""Who can reach what a pool is made of: docs/explanation/security.md, checked against running pools."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing import AuthenticationError, connection, process
from pathlib import Path
from typing import Any, NamedTuple

import fault_tasks as tasks
import pytest
from waiting import agent_pids, manager_pid, wait_gone, wait_idle, wait_until

import mpsteal
from mpsteal._queue.arena import anonymous_file
from mpsteal._queue.manager import QueueManager

Open = Callable[..., mpsteal.Pool]

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


class Held(NamedTuple):
    """One descriptor of one process."""

    number: int
    target: str
    mode: int
    owner: int
    closes_on_exec: bool


def held_by(pid: int) -> list[Held]:
    """All descriptors of a process."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        try:
            facts, target = os.stat(path), os.readlink(path)
            text = Path(f"/proc/{pid}/fdinfo/{name}").read_text()
        except OSError:
            continue  # the listing's own
        flags = next(line.split()[1] for line in text.splitlines() if line.startswith("flags:"))
        found.append(Held(int(name), target, facts.st_mode & 0o777, facts.st_uid, bool(int(flags, 8) & os.O_CLOEXEC)))
    return found


def targets(pool: mpsteal.Pool) -> set[str]:
    """What the pool's own descriptors lead to: segment, locks, pipes."""
    engine = pool._engine
    numbers = [engine.segment.fd, engine.guard._control, *engine._fds]
    return {os.readlink(f"/proc/self/fd/{number}") for number in numbers}


def address(pool: mpsteal.Pool) -> str:
    """Wait until the Manager serves; where."""
    guard = pool._engine.guard

    def serves() -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return bool(guard.folder) and client.connect_ex(os.path.join(guard.folder, "manager")) == 0

    wait_until(serves, "the Manager serves", 20.0)
    return os.path.join(guard.folder, "manager")


def processes(pool: mpsteal.Pool) -> dict[str, int]:
    """Every process of a pool that is all there."""
    wait_idle(pool)
    address(pool)
    agents = {f"agent {i}": pid for i, pid in enumerate(agent_pids(pool))}
    return {"parent": os.getpid(), "Manager": pool._engine.guard.pid, **agents}


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Let no bit through but those of `request.param`."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory where everybody may rename everything. Its name is short, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="h-") as name:
        os.chmod(name, 0o777)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


# -- modes and descriptors -----------------------------------------------------------------


@needs_proc
@pytest.mark.parametrize("umask", [0o000], indirect=True, ids=oct)
def test_all_of_it_is_ours_alone_and_closed_on_exec(open_pool: Open, start_method: str, umask: int) -> None:
    pool = open_pool(2, start_method)
    family = processes(pool)
    ours = targets(pool)
    wrong = []
    for who, pid in family.items():
        mine = [held for held in held_by(pid) if held.target in ours]
        assert any("mpsteal-segment" in held.target for held in mine), f"{who} has no segment"
        wrong += [(who, held) for held in mine if held.owner != os.geteuid() or not held.closes_on_exec]
        # Of what is no file the kernel keeps no mode worth the name.
        files = [held for held in mine if held.target.startswith(("/", "pipe:"))]
        wrong += [(who, held) for held in files if held.mode != 0o600]
    assert not wrong
    check_folder(pool)


@needs_proc
@pytest.mark.parametrize("umask", [0o077, 0o027], indirect=True, ids=oct)
def test_folder_under_other_umasks(open_pool: Open, umask: int) -> None:
    pool = open_pool(1)
    address(pool)
    check_folder(pool)


def check_folder(pool: mpsteal.Pool) -> None:
    folder = Path(pool._engine.guard.folder)
    facts = folder.lstat()
    assert facts.st_mode & 0o777 == 0o700 and facts.st_uid == os.geteuid()
    modes = {path.name: path.lstat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"manager": 0o600, "segment": 0o600}


@needs_proc
def test_programs_that_tasks_start_inherit_nothing(open_pool: Open, start_method: str) -> None:
    """However carelessly: with `close_fds=False`, as `os.system` does it."""
    pool = open_pool(1, start_method)
    seen = pool.apply(tasks.list_what_a_program_inherits)
    manager_pid(pool)
    assert not targets(pool) & set(seen)


@needs_proc
def test_programs_that_the_parent_starts_inherit_nothing(open_pool: Open) -> None:
    pool = open_pool(1)
    processes(pool)
    assert not targets(pool) & set(tasks.list_what_a_program_inherits())


@needs_proc
def test_files_that_stand_in_are_ours_alone_and_have_no_name(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    before = os.umask(0)
    try:
        fd = anonymous_file("test", 4096, memfd=False)
    finally:
        os.umask(before)
    try:
        facts = os.fstat(fd)
        assert (facts.st_mode & 0o777, facts.st_nlink, facts.st_uid) == (0o600, 0, os.geteuid())
    finally:
        os.close(fd)
    assert not list(temporary.iterdir())


# -- secrets --------------------------------------------------------------------------------


@needs_proc
def test_key_and_folder_are_in_no_command_line_or_environment(open_pool: Open, start_method: str) -> None:
    pool = open_pool(1, start_method)
    family = processes(pool)
    guard = pool._engine.guard
    key = bytes(guard.authkey)
    for who, pid in family.items():
        told = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert key not in told and key.hex().encode() not in told, who
        assert repr(key).encode() not in told, who
        assert os.path.basename(guard.folder).encode() not in told, who


def test_each_pool_has_a_key_and_a_folder_of_its_own(open_pool: Open) -> None:
    guards = [open_pool(1)._engine.guard for _ in range(3)]
    wait_until(lambda: all(guard.folder for guard in guards), "three Managers")
    keys = {guard.authkey for guard in guards} | {bytes(process.current_process().authkey)}
    assert len(keys) == 4
    assert min(map(len, keys)) >= 32
    names = {os.path.basename(guard.folder).removeprefix("mpsteal-") for guard in guards}
    assert len(names) == 3
    assert min(map(len, names)) >= 8


# -- clients ---------------------------------------------------------------------------------


class WritesWhenUnpickled:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return tasks.note, (str(self.path), "unpickled")


def framed(message: bytes) -> bytes:
    """A message as `multiprocessing.connection` sends it."""
    return struct.pack("!i", len(message)) + message


@pytest.mark.parametrize("door", ["manager", "segment"])
def test_client_without_the_key_is_not_listened_to(open_pool: Open, tmp_path: Path, door: str) -> None:
    pool = open_pool(1)
    folder = os.path.dirname(address(pool))
    noted = tmp_path / "noted"
    bomb = pickle.dumps(WritesWhenUnpickled(noted))
    for message in (
        framed(bomb),
        framed(bomb + bytes(4096)),  # longer than what is read of an answer
        struct.pack("!iQ", -1, 1 << 60),  # announces an exabyte
        b"\0\0",  # half a header
        framed(b"\0" * 16) + framed(b"#WELCOME#") + framed(bomb),  # as if it had been let in
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.path.join(folder, door))
            client.sendall(message)
            client.shutdown(socket.SHUT_WR)
            try:
                while client.recv(4096):
                    pass
            except ConnectionResetError:
                pass  # it has closed with our words unread
        assert not noted.exists(), message
    check_manager_serves(pool)


def check_manager_serves(pool: mpsteal.Pool) -> None:
    """Status, and the segment itself, for who has the key."""
    wait_idle(pool)
    manager = QueueManager(address(pool), pool._engine.guard.authkey)
    manager.connect()
    pids = [agent["pid"] for agent in manager.queue().status()]  # type: ignore[attr-defined]
    segment = manager.attach()
    try:
        assert not os.get_inheritable(segment.fd)
        assert os.fstat(segment.fd).st_ino == os.fstat(pool._engine.segment.fd).st_ino
    finally:
        segment.close()
    assert pids == [process.pid for process in pool._pool]


def test_outsider_attaches_and_leaves_nothing(open_pool: Open, start_method: str) -> None:
    pool = open_pool(1, start_method)
    wait_idle(pool)
    check_manager_serves(pool)
    assert pool.apply(tasks.double, (4,)) == 8


@needs_proc
def test_manager_that_came_later_serves_too(open_pool: Open, start_method: str) -> None:
    """The one before it was killed, and left its sockets where the next one wants to have them."""
    pool = open_pool(1, start_method)
    wait_idle(pool)
    address(pool)
    first = pool._engine.guard.pid
    os.kill(first, signal.SIGKILL)
    wait_gone([first])
    manager_pid(pool, first)
    check_manager_serves(pool)


def test_wrong_key_is_refused_at_both_doors(open_pool: Open) -> None:
    pool = open_pool(1)
    where = address(pool)
    with pytest.raises(AuthenticationError):
        QueueManager(where, b"guessed" * 5).connect()
    with pytest.raises(AuthenticationError):
        connection.Client(os.path.join(os.path.dirname(where), "segment"), "AF_UNIX", b"guessed" * 5)
    check_manager_serves(pool)


def test_silent_clients_keep_nobody_waiting(open_pool: Open) -> None:
    pool = open_pool(1)
    wait_idle(pool)
    folder = os.path.dirname(address(pool))
    silent = [socket.socket(socket.AF_UNIX) for _ in range(8)]
    try:
        for i, client in enumerate(silent):
            client.connect(os.path.join(folder, ("manager", "segment")[i % 2]))
        check_manager_serves(pool)
    finally:
        for client in silent:
            client.close()


def test_impostor_learns_nothing_and_is_found_out(open_pool: Open, temporary: Path) -> None:
    """Somebody else's socket where ours is looked for: it cannot answer our challenge, and nothing of it is loaded."""
    pool = open_pool(1)
    address(pool)
    fake = str(temporary / "manager")
    with connection.Listener(fake, "AF_UNIX", authkey=b"impostor" * 4) as listener:

        def serve() -> None:
            with pytest.raises(AuthenticationError):
                listener.accept()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(AuthenticationError):
            QueueManager(fake, pool._engine.guard.authkey).connect()
        thread.join()


# -- a temporary directory in bad hands ------------------------------------------------------


def planned_names(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let `tempfile` draw these names first, as if somebody had guessed them."""
    draw = tempfile._get_candidate_names()  # type: ignore[attr-defined]

    def drawn() -> Iterator[str]:
        yield from names
        yield from draw

    plan = drawn()
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: plan)


def test_planted_link_is_not_taken_for_the_folder(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    precious = temporary / "precious"
    precious.mkdir()
    (precious / "manager").write_text("theirs")
    planted = temporary / "mpsteal-guessed"
    planted.symlink_to(precious)
    planned_names(monkeypatch, "guessed")
    pool = open_pool(1)
    folder = os.path.dirname(address(pool))
    assert Path(folder).parent == temporary
    assert Path(folder) != planted
    check_folder(pool)
    pool.terminate()
    pool.join()
    assert planted.is_symlink()
    assert (precious / "manager").read_text() == "theirs"


def test_folder_that_was_swapped_for_a_link_is_left_alone(open_pool: Open, temporary: Path) -> None:
    """Where others may rename our folder: what the link leads to is not cleared."""
    precious = temporary / "precious"
    precious.mkdir()
    (precious / "keep").write_text("theirs")
    pool = open_pool(1)
    folder = Path(address(pool)).parent
    folder.rename(temporary / "moved")
    folder.symlink_to(precious)
    pool.terminate()
    pool.join()
    assert (precious / "keep").read_text() == "theirs"


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the road without a memfd is the usual one")
def test_planted_link_is_not_taken_for_a_file(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    precious = temporary / "precious"
    precious.write_text("theirs")
    (temporary / "mpsteal-guessed").symlink_to(precious)
    planned_names(monkeypatch, "guessed")
    monkeypatch.setattr("mpsteal._queue.arena._free_bytes", lambda folder: folder == str(temporary))
    fd = anonymous_file("test", 4096, memfd=False)
    try:
        assert os.fstat(fd).st_ino != precious.stat().st_ino
        assert os.fstat(fd).st_nlink == 0
    finally:
        os.close(fd)
    assert precious.read_text() == "theirs"


@needs_proc
def test_manager_imports_nothing_from_the_current_directory(
    open_pool: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules planted where the program happens to stand, with names that the Manager imports."""
    pool = open_pool(1, "spawn")
    wait_idle(pool)
    address(pool)
    first = pool._engine.guard.pid
    noted = tmp_path / "noted"
    here = tmp_path / "here"
    here.mkdir()
    for name in ("contextlib", "selectors", "tempfile", "shutil", "socket", "threading"):
        (here / f"{name}.py").write_text(f"open({str(noted)!r}, 'w').close()\nraise SystemExit\n")
    monkeypatch.chdir(here)
    os.kill(first, signal.SIGKILL)
    wait_gone([first])
    manager_pid(pool, first)
    address(pool)
    assert not noted.exists()
