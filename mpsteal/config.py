"""The scheduler's configuration: files, mappings, environment and keywords become one checked `Config`.

    source: file, mapping, Config   MPSTEAL_* in the environment   keywords
                |                              |                       |
                +---- pairs of key and value, with lines where there are any
                                               |
                          each key known, given once, its value allowed
                                               |
                    defaults < source < environment < keywords  ->  Config, frozen

What a key means and which values it takes is told in `_policy/rules.py`; `config/load-balancing-config.yaml` says it
to people. The defaults need no file, and PyYAML is imported only where there is something to read.
"""

from __future__ import annotations

import difflib
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ._policy.rules import KEYS, SECTIONS, build, conflicts
from ._policy.rules import Rules as Config
from .errors import ConfigError

if TYPE_CHECKING:
    import yaml

__all__ = ["Config", "describe", "load_config"]

PREFIX = "MPSTEAL_"

_TOP = [field.name for field in fields(Config)]

_LIKE = 0.6
"""How alike an unknown key must be to a known one, to be named (ratio, chosen by hand). Less: far-fetched advice; more:
none for typos that are plain to see."""

_MEANT = 0.85
"""How alike a variable must be to a key's, to be taken for a misspelt one (ratio). Less: variables that others named
with our prefix are refused; more: typos are ignored silently. 0.85 takes one wrong letter in seven, and the nearest of
those that this repository's own tests and benchmarks read is at 0.5."""

_VARIABLES = list({key.replace(".", "_") for key in (*KEYS, *SECTIONS)} | {key.rpartition(".")[2] for key in KEYS})
"""What people write for keys in variables: one underscore for two, or no section."""


class _Given(NamedTuple):
    """A checked value, and where it was given."""

    value: Any
    file: str
    line: int | None


class _Pair(NamedTuple):
    key: str
    value: _Value
    line: int | None


class _Value:
    """A value of a source."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def plain(self) -> Any:
        """The value as Python data."""
        return self.raw

    def pairs(self) -> list[_Pair] | None:
        """What is in it, duplicates included; None: it holds no keys."""
        if self.raw is None:  # a section whose keys are all commented out
            return []
        if isinstance(self.raw, Mapping):
            return [_Pair(str(key), _Value(value), None) for key, value in self.raw.items()]
        if type(self.raw) in (Config, *SECTIONS.values()):
            return [_Pair(field.name, _Value(getattr(self.raw, field.name)), None) for field in fields(self.raw)]
        return None


class _YamlValue(_Value):
    """A value of a YAML text. Its node keeps what plain data would lose: lines, and keys that come twice."""

    raw: yaml.Node

    def plain(self) -> Any:
        """As above; ValueError: YAML's tags ask for something that cannot be made of it."""
        import yaml

        try:
            return yaml.SafeLoader("").construct_object(self.raw, deep=True)
        except Exception as error:  # `!!int ""` is an IndexError, `!!timestamp x` an AttributeError
            raise ValueError(getattr(error, "problem", error)) from None

    def pairs(self) -> list[_Pair] | None:
        import yaml

        if isinstance(self.raw, yaml.MappingNode):
            pairs = []
            for key, value in self.raw.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else "?"  # so YAML marks a key that is no scalar
                pairs.append(_Pair(name, _YamlValue(value), key.start_mark.line + 1))
            return pairs
        return [] if self.raw.tag == "tag:yaml.org,2002:null" else None


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    **overrides: Any,
) -> Config:
    """Make a configuration, and check all of it.

    Keywords win over the environment, that over the source, that over the defaults. Each of them is checked as a
    whole, what is overridden too.

    Args:
        source: a YAML file's path; nested mappings; a `Config`; None: only defaults.
        environ: where to look for `MPSTEAL_BALANCING__INTERVAL_S` and the like, values in YAML; None: `os.environ`.
        overrides: values by dotted key, with `__` for the dot: `balancing__interval_s=5`.

    Returns:
        The configuration.

    Raises:
        ConfigError: malformed YAML, an unknown key, one that is given twice, a value of a wrong type or out of range,
            or values that do not go together. It says where and what is allowed.
        OSError: the file cannot be read.
        TypeError: `source` is nothing of the above.
    """
    environ = os.environ if environ is None else environ
    keywords = [_Pair(name.replace("__", "."), _Value(value), None) for name, value in overrides.items()]
    layers = [
        _checked(*_read(source)),
        _checked("environment", _environment(environ)),
        _checked("keyword", keywords),
    ]
    given = {key: entry for layer in layers for key, entry in layer.items()}
    config = build({key: entry.value for key, entry in given.items()})
    for allowed in conflicts(config):
        # The key to blame is the one that was given last: what it meets was all right before.
        key = max(allowed, key=lambda key: max((i for i, layer in enumerate(layers) if key in layer), default=-1))
        raise ConfigError(given[key].file, given[key].line, key, _words(given[key].value), allowed[key])
    return config


def describe(config: Config) -> dict[str, Any]:
    """A configuration as nested plain data, ready for JSON or YAML; `load_config` takes it back."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        return list(value) if isinstance(value, tuple) else value

    result: dict[str, Any] = plain(config)
    return result


def _read(source: Any) -> tuple[str, list[_Pair]]:
    """A source's name in errors, and what is in it."""
    if source is None:
        return "", []
    if isinstance(source, (str, os.PathLike)):
        file = os.fspath(source)
        with open(file, "rb") as stream:
            return file, _parse(file, stream.read())
    name = "a Config" if isinstance(source, Config) else "a mapping"
    pairs = _Value(source).pairs() if isinstance(source, (Config, Mapping)) else None
    if pairs is None:
        raise TypeError(f"source must be a path, a mapping, a Config or None, not {source!r}")
    return name, pairs


def _parse(file: str, content: bytes) -> list[_Pair]:
    """The pairs of a YAML text."""
    import yaml

    allowed = f"a mapping of {', '.join(_TOP)}"
    line: int | None
    try:
        text = content.decode("utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line, problem = content.count(b"\n", 0, error.start) + 1, "no UTF-8"
    except yaml.reader.ReaderError as error:
        line, problem = text.count("\n", 0, error.position) + 1, error.reason
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        problem = ", ".join(filter(None, (error.context, error.problem)))
    except RecursionError:
        line, problem = None, "too deeply nested"
    else:
        if node is None:  # nothing but comments
            return []
        pairs = _YamlValue(node).pairs()
        if pairs is not None:
            return pairs
        found = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise ConfigError(file, node.start_mark.line + 1, None, found, allowed)
    raise ConfigError(file, line, None, f"malformed YAML ({problem})", allowed)


def _environment(environ: Mapping[str, str]) -> Iterator[_Pair]:
    """What the environment gives, misspelt keys included, which are refused with all unknown keys."""
    for name, text in sorted(environ.items()):
        key = name[len(PREFIX) :].lower().replace("__", ".")
        if name.startswith(PREFIX) and _is_ours(key):
            yield _Pair(key, _Value(_from_text(key, text)), None)


def _is_ours(key: str) -> bool:
    """Whether a variable is meant for us. Others start with MPSTEAL_ too: ours name a section or a key first, or look
    very much like one that does."""
    first, dot, last = key.partition(".")
    if first in _TOP or (dot and difflib.get_close_matches(first, _TOP, 1, _LIKE)):
        return True
    return any(difflib.get_close_matches(word, _VARIABLES, 1, _MEANT) for word in (key.replace(".", "_"), last) if word)


def _from_text(key: str, text: str) -> Any:
    """A variable's value: what YAML reads in it, or the text itself where that is no YAML or a word is asked for."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except Exception:  # beside YAMLError whatever its constructors let through
        return text
    is_word = key in KEYS and isinstance(KEYS[key].default, str)
    return text if is_word and not isinstance(value, str) else value


def _checked(file: str, pairs: Iterable[_Pair]) -> dict[str, _Given]:
    """The values of one source by dotted name.

    Raises:
        ConfigError: the first thing in it that must not be.
    """
    given: dict[str, _Given] = {}
    _check_into(given, {}, file, "", pairs)
    return given


def _check_into(
    given: dict[str, _Given], seen: dict[str, int | None], file: str, prefix: str, pairs: Iterable[_Pair]
) -> None:
    for name, value, line in pairs:
        key = prefix + name
        if key in seen:
            first = "" if seen[key] is None else f"; the first is in line {seen[key]}"
            raise ConfigError(file, line, key, f"the key a second time{first}", "each key once")
        seen[key] = line
        if key in SECTIONS:
            inner = value.pairs()
            if inner is None:
                found = _words(_construct(file, line, key, value))
                raise ConfigError(file, line, key, found, f"a mapping of {', '.join(_names(key))}")
            _check_into(given, seen, file, key + ".", inner)
        elif key in KEYS:
            given[key] = _Given(_convert(file, line, key, value), file, line)
        else:
            known = _names(key.rpartition(".")[0])
            raise ConfigError(file, line, key, "an unknown key", ", ".join(known), _nearest(key))


def _convert(file: str, line: int | None, key: str, value: _Value) -> Any:
    raw = _construct(file, line, key, value)
    try:
        return KEYS[key].convert(raw)
    except ValueError:
        raise ConfigError(file, line, key, _words(raw) + _advice(key, raw), KEYS[key].allowed) from None


def _construct(file: str, line: int | None, key: str, value: _Value) -> Any:
    try:
        return value.plain()
    except ValueError as error:
        allowed = KEYS[key].allowed if key in KEYS else f"a mapping of {', '.join(_names(key))}"
        raise ConfigError(file, line, key, f"a value that YAML cannot make ({error})", allowed) from None


def _names(section: str) -> list[str]:
    """The keys of a section; of the top, where there is no such section."""
    return [field.name for field in fields(SECTIONS[section])] if section in SECTIONS else _TOP


def _nearest(key: str) -> str | None:
    """The known key that looks most like this one: by its whole name and by the last part, half each.

    So a key in the wrong section is found where it belongs, and one with a typo in its own section.
    """

    key = key.lower()
    last = key.rpartition(".")[2]

    def likeness(known: str) -> float:
        whole = difflib.SequenceMatcher(a=key, b=known).ratio()
        return (whole + difflib.SequenceMatcher(a=last, b=known.rpartition(".")[2]).ratio()) / 2

    best = max((*KEYS, *SECTIONS), key=likeness)
    if likeness(best) >= _LIKE:
        return best
    section = key.rpartition(".")[0]
    return _nearest(section) if section and section not in SECTIONS else None


_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 2, 60, 60


def _words(value: object) -> str:
    """A value for an error: short, on one line, in YAML's words where they differ from Python's."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, int) and value.bit_length() > 256:  # Python refuses to write numbers of 4,300 digits
        return "a huge number"
    text = " ".join(_short.repr(value).split())
    return f"the text {text}" if isinstance(value, str) else text


def _advice(key: str, value: object) -> str:
    """Why a text that looks like a number is none to YAML 1.1."""
    if isinstance(value, str) and type(KEYS[key].default) in (int, float):
        try:
            float(value)
        except ValueError:
            return ""
        return " (a number has no quotes; an exponent needs a dot and a sign, as in 1.0e-3)"
    return ""
