"""`mpsteal advise`: whether a pool pays for one's own function, which one, and how far to trust that.

load.py       finds the function and its inputs                     in this process, as an agent would import them
measure.py    calls the function on a sample, pickles what travels  -> Profile
calibrate.py  what each pool costs on this machine, with stand-ins  -> Costs
predict.py    Profile + Costs -> Forecasts                          pure, so tests feed numbers
words.py      all of it -> one sentence, a table, tips              pure
trial.py      runs all ways for real, in turns, compares results    -> measured times
tasks.py      what is sent to agents
command.py    the command line

load --> measure --> Profile --.
              calibrate --> Costs --+--> predict --> Forecasts --> words --> text or JSON
                                    trial --> measured ----------^
"""

from __future__ import annotations

from typing import NamedTuple

SERIAL, STOCK_MAP, STOCK_IMAP, MPSTEAL_MAP = "serial", "stock map", "stock imap", "mpsteal map"
"""The ways to do the job: a loop in one process; `multiprocessing.Pool.map`; its `imap_unordered` with chunks of one
item; `mpsteal.Pool.map`."""

POOL_WAYS = (STOCK_MAP, STOCK_IMAP, MPSTEAL_MAP)


class AdviceError(Exception):
    """No advice can be given.

    Attributes:
        exit_status: 2 if the command line is wrong, 1 if the function fails or cannot be sent.
    """

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Profile(NamedTuple):
    """What the function costs by itself, in one process.

    Attributes:
        times_s: wall time of each call that was measured, in the order of the inputs.
        places: which inputs those were, counted from 0, ascending.
        inputs: how many inputs there are.
        cpu_share: CPU time over wall time, of all threads: about 1 computes, near 0 waits, above 1 uses several cores.
        lost_share: of the time of the calls, what other programs had the core.
        first_s: the very first call, which is in no other figure.
        argument_bytes, result_bytes: mean size of one pickle.
        argument_s, result_s: mean time to write and to read that pickle.
        function_bytes, function_s: the same of the function.
        is_repeatable: the same input gave the same result twice.
        changes_argument: its argument is not what it was after the call.
        remembers: calls on inputs that were seen before take less than a third of the time.
    """

    times_s: tuple[float, ...]
    places: tuple[int, ...]
    inputs: int
    cpu_share: float = 1.0
    lost_share: float = 0.0
    first_s: float = 0.0
    argument_bytes: float = 0.0
    argument_s: float = 0.0
    result_bytes: float = 0.0
    result_s: float = 0.0
    function_bytes: float = 0.0
    function_s: float = 0.0
    is_repeatable: bool = True
    changes_argument: bool = False
    remembers: bool = False

    @property
    def mean_s(self) -> float:
        """Mean time of a call."""
        return sum(self.times_s) / len(self.times_s)


class WayCosts(NamedTuple):
    """What one way of one pool costs, as measured in a few passes.

    Attributes:
        start_s: to open the pool, have an answer from each agent and end it; one figure for each pass.
        lost: points `(length of a call, agent-seconds that are lost for each item, one figure for each pass)`, by
            ascending length. The first point has length 0: a call that does nothing.
        bytes_per_s: arguments of 1 MiB through the pool.
    """

    start_s: tuple[float, ...]
    lost: tuple[tuple[float, tuple[float, ...]], ...]
    bytes_per_s: float


class Costs(NamedTuple):
    """What the pools cost on this machine.

    Attributes:
        ways: by name, those of `POOL_WAYS`.
        slowdown: how many times as long a call takes in an agent while all agents are busy, one figure for each pass.
        drift: what the same calls in this process took in each pass, over their median.
    """

    ways: dict[str, WayCosts]
    slowdown: tuple[float, ...]
    drift: tuple[float, ...] = (1.0,)


class Forecast(NamedTuple):
    """What one way takes for a job: the median of the drawn rounds, and the range of 90 % of them (s)."""

    way: str
    seconds: float
    low_s: float
    high_s: float
