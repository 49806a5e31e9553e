"""The `mpsteal` command: run an unchanged program with the stock pool replaced.

    mpsteal run script.py [args...]            a file, or a directory or zip with a __main__.py
    mpsteal run -m package.module [args...]    as `python -m`
    mpsteal demo [name] [options]              see `mpsteal/demos`, which reads its arguments itself
    mpsteal doctor [options]                   see `mpsteal/_doctor`, likewise
    mpsteal bench [options]                    see `bench/`, likewise; `_bench_door` finds it
    mpsteal advise script.py:function [...]    see `mpsteal/_advise`, likewise
    mpsteal config [--preset NAME]             a configuration of the scheduler, to start one's own file from
    mpsteal --version

    argv ──> _split ──> own options    ──> argparse
                    └─> program + args ──> _run: sys.argv, sys.path[0] ─> patch.install
                                                 ─> _load_path or _load_module ─> exec as __main__

The program must not see a difference from plain `python`: not in its `__main__` (spawn and
forkserver children import the main module again by its `__spec__` or `__file__`), not in its
arguments and paths, not in how it ends. So it runs in this very process, and whatever it raises
goes on to the interpreter, which knows best how a SystemExit, a KeyboardInterrupt (death by SIGINT,
so that a shell loop around it stops too) or a traceback ends a process. All that is added is a hook
that takes this file's frames off the traceback.

Run in the main thread. Imports at the top are what argparse needs anyway; what only a run needs is
imported when there is something to run.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

CONFIG_FILES = {None: "load-balancing-config.yaml", "pool": "pool-preset.yaml"}
"""What `mpsteal config` prints, by the name of the preset. In the wheel they lie in `mpsteal/_config/` (pyproject.toml
puts them there), in a checkout only in `config/` beside the package, so there are no copies to keep equal."""


class _CannotRunError(Exception):
    """There is no such program. Text and exit status are the ones that plain Python gives."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class _Program(NamedTuple):
    """A program ready to run: its code and what its `__main__` must carry."""

    code: CodeType
    attributes: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `mpsteal` command.

    Args:
        argv: the arguments without the command's own name; default: those of this process.

    Returns:
        The exit status, 0 when a program ran to its end.

    Raises:
        SystemExit: from argparse, or from the program that ran.
        BaseException: whatever else ended the program; the interpreter is meant to report it.
    """
    own, program_args = _split(sys.argv[1:] if argv is None else argv)
    if own and own[0] == "demo":
        from .demos import main as run_demos

        return run_demos(argv=own[1:])
    if own and own[0] == "doctor":
        from ._doctor.command import main as run_doctor

        return run_doctor(own[1:])
    if own and own[0] == "bench":
        from ._bench_door import main as run_bench

        return run_bench(own[1:])
    if own and own[0] == "advise":
        from ._advise.command import main as advise

        return advise(own[1:])
    parser = _make_parser()
    options = parser.parse_args(own)
    if options.command == "config":
        sys.stdout.write(_read_config(CONFIG_FILES[options.preset]))
        return 0
    if options.command != "run":
        parser.print_help()
        return 0
    if options.module is None and options.program is None:
        parser.error("run: name a script, or a module with -m")
    try:
        if options.module is not None:
            return _run(options.module, program_args, is_module=True)
        return _run(options.program, program_args, is_module=False)
    except _CannotRunError as error:
        print(f"{sys.executable}: {error}", file=sys.stderr)
        return error.exit_status


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mpsteal", description="A process pool that balances itself by work stealing."
    )
    parser.add_argument("--version", action=_PrintVersion, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="command")
    run = commands.add_parser(
        "run",
        help="run a program with multiprocessing's Pool replaced",
        usage="mpsteal run [-h] (program | -m module) [args ...]",
        description="Run a Python program unchanged, with mpsteal.Pool in multiprocessing's place.",
        epilog="Everything after the program belongs to the program.",
    )
    run.add_argument("-m", dest="module", metavar="module", help="a module, as for python -m")
    run.add_argument("program", nargs="?", help="a script, or a directory or zip with a __main__.py")
    commands.add_parser("demo", help="run the scheduler's demos, which check their own outcome")
    commands.add_parser(
        "doctor", help="look for what is wrong with this machine, and test a pool by killing its agents"
    )
    commands.add_parser("bench", help="measure this machine: mpsteal beside other pools, workload by workload")
    commands.add_parser("advise", help="measure a function of yours, and say whether a pool pays for it, and which one")
    config = commands.add_parser(
        "config",
        help="print the scheduler's default configuration",
        description="Print the scheduler's default configuration, every key with its meaning, unit and range.",
        epilog="mpsteal config > rules.yaml, then WorkStealingScheduler('rules.yaml')",
    )
    presets = [name for name in CONFIG_FILES if name is not None]
    config.add_argument("--preset", choices=presets, help="only what differs for one use; pool: tasks and agents alike")
    return parser


def _read_config(name: str) -> str:
    """The text of a configuration file that comes with the package."""
    from importlib.resources import files

    package = files("mpsteal")
    shipped = package / "_config" / name  # a resource, no path: the package may be in a zip file
    if not shipped.is_file():
        shipped = package / ".." / "config" / name
    return shipped.read_text(encoding="utf-8")


class _PrintVersion(argparse.Action):
    """`--version`, looked up only when asked for; argparse's own action wants the text first."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print("mpsteal", version("mpsteal"))
        except PackageNotFoundError:
            print("mpsteal (not installed: running from a source tree)")
        parser.exit()


def _split(argv: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """Cut `run`'s arguments behind the program's name: all that follows is the program's.

    argparse cannot: its REMAINDER still reads options that come before the first positional of the
    rest.
    """
    if not argv or argv[0] != "run":
        return argv, []
    end = len(argv)
    for i, word in enumerate(argv[1:], 1):
        if word in ("-m", "--"):
            end = i + 2
            break
        if not word.startswith("-") or (word.startswith("-m") and len(word) > 2):
            end = i + 1
            break
    return argv[:end], list(argv[end:])


def _run(name: str, args: list[str], *, is_module: bool) -> int:
    """Run one program as `__main__` of this process, with the pool replaced."""
    # sys.path first, so that a program's own modules hide others for our imports too, as they do
    # without mpsteal.
    if is_module:
        _set_first_path(os.getcwd())
        sys.argv = ["-m", *args]
    else:
        sys.argv = [name, *args]
        name = os.path.join(os.getcwd(), name)  # as Python writes it into __file__: not normalised
        if not os.path.isdir(name):
            _set_first_path(os.path.dirname(os.path.realpath(name)))

    from mpsteal import patch

    patch.install()
    try:
        program = _load_module(name) if is_module else _load_path(name)
        module = ModuleType("__main__")
        if sys.version_info < (3, 14):
            module.__annotations__ = {}
        module.__dict__.update(program.attributes, __builtins__=sys.modules["builtins"])
        # Spawned children know the main module as __mp_main__ and name it so in what they send
        # back; multiprocessing has bound that name here to the launcher when it was imported.
        sys.modules["__main__"] = sys.modules["__mp_main__"] = module
        exec(program.code, module.__dict__)
    except (SystemExit, _CannotRunError):
        raise
    except BaseException as error:
        _report_without_our_frames(error)
        raise
    return 0


def _set_first_path(directory: str) -> None:
    """Put `directory` where Python put the launcher's own, unless -P or -I keep that place out."""
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path[0] = directory


def _load_path(path: str) -> _Program:
    """A source file, a compiled file, or a directory or zip file with a `__main__`."""
    import pkgutil
    from importlib.machinery import PathFinder, SourceFileLoader, SourcelessFileLoader

    if pkgutil.get_importer(path) is not None:
        # A directory or an archive is searched for modules like any entry of sys.path, -P or not.
        if sys.flags.isolated or getattr(sys.flags, "safe_path", False):
            sys.path.insert(0, path)
        else:
            sys.path[0] = path
        spec = PathFinder.find_spec("__main__", [path])
        if spec is None:
            raise _CannotRunError(f"can't find '__main__' module in {path!r}")
        return _load_spec(spec)

    loader: SourceFileLoader | SourcelessFileLoader
    code: CodeType | None
    try:
        if path.endswith(".pyc"):
            loader = SourcelessFileLoader("__main__", path)
            code = loader.get_code("__main__")
        else:
            loader = SourceFileLoader("__main__", path)
            # Bytes: the compiler finds a BOM and a coding cookie itself.
            code = compile(loader.get_data(path), path, "exec", dont_inherit=True)
    except OSError as error:
        message = f"can't open file {path!r}: [Errno {error.errno}] {error.strerror}"
        raise _CannotRunError(message, exit_status=2) from None
    if code is None:
        raise _CannotRunError(f"no code in {path!r}")
    return _Program(code, _main_attributes(path, None, loader, None, None))


def _load_module(name: str) -> _Program:
    """A module as `python -m` finds it: parents imported, a package stands for its `__main__`."""
    spec = _find_module(name)
    program = _load_spec(spec)
    sys.argv[0] = program.attributes["__file__"]
    return program


def _find_module(name: str) -> ModuleSpec:
    import importlib.util

    if name.startswith("."):
        raise _CannotRunError("Relative module names not supported")
    parent = name.rpartition(".")[0]
    if parent:
        try:
            __import__(parent)
        except ImportError as error:
            # Only "there is no such parent" is ours to say; a parent that fails inside shows its
            # own traceback.
            missing = error.name
            if missing is None or (missing != parent and not parent.startswith(missing + ".")):
                raise
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise _CannotRunError(f"Error while finding module specification for {name!r} ({cause})") from error
    if spec is None:
        raise _CannotRunError(f"No module named {name}")
    if spec.submodule_search_locations is None:
        return spec
    if name == "__main__" or name.endswith(".__main__"):
        raise _CannotRunError("Cannot use package as __main__ module")
    try:
        return _find_module(f"{name}.__main__")
    except _CannotRunError as error:
        if name not in sys.modules:
            raise
        message = f"{error}; {name!r} is a package and cannot be directly executed"
        raise _CannotRunError(message) from None


def _load_spec(spec: ModuleSpec) -> _Program:
    get_code = getattr(spec.loader, "get_code", None)
    if get_code is None:
        raise _CannotRunError(f"{spec.name!r} is a namespace package and cannot be executed")
    try:
        code = get_code(spec.name)
    except ImportError as error:
        raise _CannotRunError(str(error)) from error
    if code is None:
        raise _CannotRunError(f"No code object available for {spec.name}")
    attributes = _main_attributes(spec.origin, spec.cached, spec.loader, spec.parent, spec)
    return _Program(code, attributes)


def _main_attributes(
    file: str | None, cached: str | None, loader: object, package: str | None, spec: object
) -> dict[str, Any]:
    return {
        "__file__": file,
        "__cached__": cached,
        "__loader__": loader,
        "__package__": package,
        "__spec__": spec,
    }


def _report_without_our_frames(error: BaseException) -> None:
    """Let the hook in force show `error` as if the interpreter had run the program itself."""
    here = _report_without_our_frames.__code__.co_filename
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == here:
        trace = trace.tb_next
    own_trace = trace
    hook = sys.excepthook

    def show(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = hook
        if value is error:  # by now the traceback has grown by every frame the error passed on its way out
            trace = own_trace
            value = value.with_traceback(trace)
        hook(kind, value, trace)

    sys.excepthook = show
