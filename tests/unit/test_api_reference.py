"""`docs/reference/api.md` holds what the code says of every public name."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest

import mpsteal

ROOT = Path(__file__).resolve().parents[2]


def load_generator() -> Any:
    spec = importlib.util.spec_from_file_location("api_reference", ROOT / "docs/api_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_what_the_generator_makes_of_the_code() -> None:
    generator = load_generator()
    assert generator.PAGE.read_text() == generator.page(), "run: python docs/api_reference.py --write"


@pytest.mark.parametrize("name", mpsteal.__all__)
def test_public_name_has_a_docstring_and_a_place(name: str) -> None:
    assert inspect.getdoc(getattr(mpsteal, name))
    assert f"\n### `{name}`\n" in load_generator().page()
