"""A pytest plugin that puts mpsteal's backend into joblib's own tests.

Wherever one is parametrised by a backend, "loky" becomes "mpsteal", and whatever does not use it then is left out.
Nothing of the tests is copied, or changed on disk.

    python -m pytest --pyargs joblib.test.test_parallel -p joblib_plugin
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import mpsteal

mpsteal.register_joblib()

BETTER = {"test_multiple_generator_call_separated_gc": ("mpsteal", False)}
"""Where loky's own row expects an error that we have no reason for: a second call while the first one's generator is
given up works, as with threads."""


def _with_ours(test: str, value: Any) -> Any:
    if value == "loky":
        return "mpsteal"
    if isinstance(value, tuple) and "loky" in value:
        return BETTER.get(test, tuple(_with_ours(test, one) for one in value))
    return value


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    test, markers = metafunc.definition.name, metafunc.definition.own_markers
    for i, marker in enumerate(markers):
        if marker.name == "parametrize" and "backend" in str(marker.args[0]):
            names, values, *rest = marker.args
            ours = list(dict.fromkeys(_with_ours(test, value) for value in values))
            markers[i] = pytest.mark.parametrize(names, ours, *rest, **marker.kwargs).mark


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if _uses_ours(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in ours])
    items[:] = ours


def _uses_ours(item: pytest.Item) -> bool:
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return "mpsteal" in map(str, params.values())


@pytest.fixture(autouse=True, scope="module")
def no_agents_left() -> Iterator[None]:
    yield
    mpsteal.shutdown_joblib()
