"""`docs/reference/api.md` holds what the code says of every public name."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from generators import load_generator

import mpsteal

ROOT = Path(__file__).resolve().parents[2]


def test_page_is_what_the_generator_makes_of_the_code() -> None:
    generator = load_generator("api_reference")
    assert generator.PAGE.read_text() == generator.page(), "run: python docs/api_reference.py --write"


@pytest.mark.parametrize("name", mpsteal.__all__)
def test_public_name_has_a_docstring_and_a_place(name: str) -> None:
    assert inspect.getdoc(getattr(mpsteal, name))
    assert f"\n### `{name}`\n" in load_generator("api_reference").page()
