"""One measurement in a process of its own: ``python -m bench._child ROW TARGET[+best] [--quick] [--cores N]
[--share S] [--json]``.

The last line on standard output is the answer (one JSON object with ``--json``). SIGUSR1 dumps all
stacks, which the driver asks for when a time limit has passed. The top of this file stays almost
empty, since it is the main module that agents import under spawn.
"""

from __future__ import annotations


def main() -> int:
    import argparse
    import faulthandler
    import json
    import multiprocessing
    import signal

    from bench import _machine, _rows, _targets
    from bench._model import Setup

    parser = argparse.ArgumentParser(prog="python -m bench._child", description="Run one row once.")
    parser.add_argument("row")
    parser.add_argument("target", help="see bench._targets; +best: with the best documented setting")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size or less")
    parser.add_argument("--cores", type=int, default=2, help="confine to so many (default 2)")
    parser.add_argument("--share", type=float, default=1.0, help="of the full size, for figures per task (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)

    (row,) = _rows.select([args.row], exact=True)
    cores = _machine.pin(args.cores)
    name, _, setting = args.target.partition("+")
    if setting not in ("", "best"):
        raise SystemExit(f"{args.target}: the only setting is +best")
    target = _targets.load(name)
    setup = Setup(target, args.quick, cores, args.share, row.best_chunk if setting else None)
    figures = {key: float(v) for key, v in row.measure(setup).items()}
    missing = [figure.key for figure in row.figures if figure.key not in figures]
    if missing:
        raise SystemExit(f"{row.name}: the measurement did not return {', '.join(missing)}")
    if args.json:
        answer = {
            "row": row.name,
            "pool": args.target,
            "pool_class": target.describe(),
            "pool_version": target.version,
            "start_method": multiprocessing.get_context().get_start_method(),
            "cores": cores,
            "figures": figures,
        }
        print(json.dumps(answer))
    else:
        for key, value in figures.items():
            print(f"{row.name} {key} {value:.6g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
