"""Makes `multiprocessing.Pool` mean `mpsteal.Pool` in every interpreter with this on its path.

The interpreter's own tests reach a pool by many roads: the test process itself, children started
by spawn or forkserver, a manager's server process, and programs run with `python -c`. The adapter
(`cpython_pool.py`) puts this folder on `PYTHONPATH`, which all of them inherit, and Python imports
`sitecustomize` before anything else runs. So there is one place where the exchange is made, and it
is made with the same `mpsteal.patch.install()` that users have.

It also bars the stock class: from here on, to build exactly the stock `Pool` is an error. A test
that passes has therefore not been served by the stock pool behind our back. The thread pool is a
subclass of the stock class and stays what it was.

With `MPSTEAL_DROPIN_EXECUTOR=mpsteal:Executor` (`cpython_executor.py` sets it) also `ProcessPoolExecutor` means
`mpsteal.Executor`, under its stock name, by which the tests import it.

`MPSTEAL_DROPIN_POOL=multiprocessing.pool:Pool` is the control run: nothing is exchanged, nothing
barred, and the tests show what the stock pool makes of them on this machine.
"""

import os
import sys
import traceback

# With it what the tests take for unpicklable would travel, as it should.
sys.modules["cloudpickle"] = None

CONTROL = "multiprocessing.pool:Pool"
REPLACED = os.environ.get("MPSTEAL_DROPIN_POOL", "mpsteal:Pool") != CONTROL


def _replace_and_bar() -> None:
    import multiprocessing.pool

    stock = multiprocessing.pool.ThreadPool.__mro__[1]

    from mpsteal import patch

    patch.install()

    import mpsteal

    if issubclass(mpsteal.Pool, stock) and mpsteal.Pool.__init__ is stock.__init__:
        raise AssertionError("mpsteal.Pool is the stock pool under another name")
    build = stock.__init__

    def barred(self, *args, **kwds):
        if type(self) is stock:
            raise AssertionError("this road still leads to the stock Pool")
        build(self, *args, **kwds)

    stock.__init__ = barred


def _replace_executor() -> None:
    import concurrent.futures.process
    import types

    import mpsteal

    class ProcessPoolExecutor(mpsteal.Executor):
        """`mpsteal.Executor`, with what two tests want of the stock one's inside before they see how it ends."""

        _call_queue = types.SimpleNamespace(join_thread=lambda: None)

    concurrent.futures.process.ProcessPoolExecutor = ProcessPoolExecutor
    concurrent.futures.ProcessPoolExecutor = ProcessPoolExecutor


if REPLACED:
    try:
        _replace_and_bar()
        if os.environ.get("MPSTEAL_DROPIN_EXECUTOR") == "mpsteal:Executor":
            _replace_executor()
    except BaseException:
        # Python itself only prints a line when this module fails, and goes on with the stock
        # pool: the tests would pass and prove nothing. So end the process.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(99)
