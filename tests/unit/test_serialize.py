"""What travels by name, by copy, and as an error (D3)."""

from __future__ import annotations

import functools
import math
import operator
import pickle
import threading
from collections.abc import Callable, Iterator
from multiprocessing.pool import MaybeEncodingError
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest

from mpsteal._agent.serialize import Encoder, decode_error, encode_error, is_by_reference
from mpsteal.errors import RemoteError


def function() -> None: ...


class Plain:
    def method(self) -> None: ...

    @classmethod
    def of_class(cls) -> None: ...

    @staticmethod
    def static() -> None: ...

    def __call__(self) -> None: ...


class Meta(type): ...


class WithMeta(metaclass=Meta): ...


@pytest.mark.parametrize(
    ("thing", "by_reference"),
    [
        pytest.param(function, True, id="function"),
        pytest.param(Plain, True, id="class"),
        pytest.param(Plain.static, True, id="static method"),
        pytest.param(Plain.method, True, id="function of a class"),
        pytest.param(len, True, id="builtin"),
        pytest.param(math.sqrt, True, id="builtin of a module"),
        pytest.param(lambda: None, True, id="lambda, which pickle refuses"),
        pytest.param(Plain().method, False, id="bound method"),
        pytest.param(Plain.of_class, False, id="class method"),
        pytest.param(Plain(), False, id="callable object"),
        pytest.param(functools.partial(function), False, id="partial"),
        pytest.param([].append, False, id="builtin bound method"),
        pytest.param("".join, False, id="method of a str"),
        pytest.param(operator.itemgetter(1), False, id="itemgetter"),
        pytest.param(WithMeta, False, id="class with a metaclass"),
        pytest.param(functools.lru_cache(function), False, id="cached function"),
    ],
)
def test_is_by_reference(thing: Any, by_reference: bool) -> None:
    assert is_by_reference(thing) is by_reference


class TestEncoder:
    def test_objects_do_not_see_each_other(self) -> None:
        """Each is pickled apart, as in the stock pool: what they share is copied for each."""
        encoder = Encoder()
        shared = [1]
        first, second = encoder.dumps((shared, shared)), encoder.dumps(shared)
        a, b = pickle.loads(first)
        assert a is b
        assert pickle.loads(second) == [1]

    def test_refused_object_leaves_no_trace(self) -> None:
        encoder = Encoder()
        good = encoder.dumps([1, 2])
        lock = threading.Lock()
        with pytest.raises((pickle.PicklingError, AttributeError)):
            encoder.dumps(["x" * 100, lambda: lock])
        assert encoder.buffer.getvalue() == b""
        assert encoder.dumps([1, 2]) == good

    def test_keeps_what_the_buffer_holds(self) -> None:
        encoder = Encoder()
        encoder.pickler.dump("before")
        encoder.pickler.clear_memo()
        kept = encoder.buffer.getvalue()
        assert pickle.loads(encoder.dumps("apart")) == "apart"
        assert encoder.buffer.getvalue() == kept
        encoder.reset()
        assert encoder.buffer.getvalue() == b""

    def test_reducers_registered_with_multiprocessing_hold(self, reducer: None) -> None:
        assert pickle.loads(Encoder().dumps(Secret("x"))) == "reduced x"


class Secret:
    def __init__(self, text: str) -> None:
        self.text = text


def rebuilt(text: str) -> str:
    return f"reduced {text}"


@pytest.fixture
def reducer() -> Iterator[None]:
    registered: dict[type, Any] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    ForkingPickler.register(Secret, lambda secret: (rebuilt, (secret.text,)))
    yield
    del registered[Secret]


class Honest(Exception):
    def __init__(self, code: int, more: str) -> None:
        super().__init__(code, more)
        self.code = code


class NeedsTwo(Exception):
    """The classic fault: `args` do not fit `__init__`, so it pickles and does not unpickle."""

    def __init__(self, code: int, more: str) -> None:
        super().__init__(f"{code} {more}")


class HoldsALambda(Exception):
    def __init__(self) -> None:
        super().__init__(lambda: None)


class BadStr(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class ExitsWhenPickled(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(3)


class ExitsWhenUnpickled(Exception):
    def __reduce__(self) -> Any:
        return (exit_now, ())


def exit_now() -> None:
    raise SystemExit(3)


class NotAnError(Exception):
    def __reduce__(self) -> Any:
        return (str, ("just a word",))


def raised(make: Callable[[], BaseException]) -> BaseException:
    try:
        raise make()
    except BaseException as error:
        return error


def travel(error: BaseException) -> BaseException:
    return decode_error(encode_error(error, Encoder()))


class TestErrors:
    def test_error_arrives_with_its_traceback_as_cause(self) -> None:
        error = travel(raised(lambda: Honest(4, "x")))
        assert type(error) is Honest
        assert error.args == (4, "x")
        assert error.code == 4
        assert type(error.__cause__).__name__ == "RemoteTraceback"
        assert "in raised" in str(error.__cause__)
        assert "Honest: (4, 'x')" in str(error.__cause__)

    @pytest.mark.parametrize("make", [KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration])
    def test_other_exceptions_arrive_too(self, make: type[BaseException]) -> None:
        assert type(travel(raised(make))) is make

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            pytest.param(lambda: NeedsTwo(1, "x"), "unpickling it raised TypeError", id="unpickle"),
            pytest.param(HoldsALambda, "pickling it raised", id="pickle"),
            pytest.param(ExitsWhenPickled, "pickling it raised SystemExit", id="exit at pickle"),
            pytest.param(ExitsWhenUnpickled, "unpickling it raised SystemExit", id="exit at unpickle"),
            pytest.param(NotAnError, "unpickling it gave a str", id="another thing"),
        ],
    )
    def test_what_cannot_travel_becomes_a_remote_error(self, make: Callable[[], BaseException], reason: str) -> None:
        original = raised(make)
        error = travel(original)
        assert isinstance(error, RemoteError)
        assert isinstance(error, MaybeEncodingError)
        assert reason in error.reason
        assert error.type_name.endswith(type(original).__qualname__)
        assert "in raised" in error.traceback_text
        assert error.type_name in str(error)

    def test_error_without_words(self) -> None:
        error = travel(raised(BadStr))
        assert type(error) is BadStr

    def test_names_of_builtins_are_short(self) -> None:
        payload = pickle.loads(encode_error(ValueError("x"), Encoder()))
        assert payload[1:3] == ("ValueError", "x")

    def test_reducers_hold_for_errors(self, reducer: None) -> None:
        error = travel(ValueError(Secret("x")))
        assert error.args == ("reduced x",)


def test_encoder_survives_a_lost_buffer() -> None:
    """`io.BytesIO` is closed when it finds no memory to grow."""
    encoder = Encoder()

    class Loses:
        def __reduce__(self) -> Any:
            encoder.buffer.close()
            raise MemoryError

    for _ in range(2):
        with pytest.raises(MemoryError):
            encoder.dumps(Loses())
        assert pickle.loads(encoder.dumps([1, 2])) == [1, 2]
