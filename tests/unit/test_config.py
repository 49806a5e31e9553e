"""The scheduler's configuration: file, defaults and page are equal, and what is wrong is said with its place."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from generators import load_generator

from mpsteal import ConfigError
from mpsteal._policy.rules import KEYS, SECTIONS, AgentRules, BalancingRules, StealingRules
from mpsteal.config import Config, describe, load_config

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "config" / "load-balancing-config.yaml"
PRESET = ROOT / "config" / "pool-preset.yaml"
PAGE = ROOT / "docs" / "reference" / "scheduler-config.md"

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have set variables of ours."""
    for name in [name for name in os.environ if name.startswith("MPSTEAL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Puts a text, or bytes, into a file."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "rules.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def wrong(*args: Any, **kwds: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(*args, **kwds)
    return caught.value


def flat(config: Config) -> dict[str, Any]:
    """Values by dotted name."""
    found: dict[str, Any] = {}
    for name, value in describe(config).items():
        found |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


def comments() -> dict[str, str]:
    """Dotted name -> the comment above it in the file, on one line."""
    found: dict[str, str] = {}
    section, lines = "", []
    for line in FILE.read_text().splitlines():
        text = line.strip()
        if text.startswith("#"):
            lines.append(text.lstrip("# "))
            continue
        name, colon, value = text.partition(":")
        if colon and value:
            found[f"{section}.{name}" if line.startswith(" ") else name] = " ".join(lines)
        elif colon:
            section = name
        lines = []
    return found


class TestOneTruth:
    def test_file_has_every_key_with_its_default(self) -> None:
        in_file = yaml.safe_load(FILE.read_text())
        # As text, so that 3 and 3.0 differ, and the order counts.
        assert json.dumps(in_file) == json.dumps(describe(Config()))
        assert load_config(FILE) == Config()

    @pytest.mark.parametrize("key", KEYS)
    def test_comment_says_meaning_unit_and_range(self, key: str) -> None:
        rule = KEYS[key]
        assert comments()[key].startswith(f"{rule.meaning} ({rule.unit}, {rule.range}). ")

    @pytest.mark.parametrize("key", [key for key in KEYS if type(KEYS[key].default) in (int, float)])
    def test_comment_of_a_number_tells_its_two_costs(self, key: str) -> None:
        assert "too small" in comments()[key].lower()
        assert "too big" in comments()[key].lower()

    def test_every_comment_belongs_to_a_key(self) -> None:
        assert list(comments()) == list(KEYS)

    def test_page_is_what_the_generator_makes(self) -> None:
        text = PAGE.read_text()
        assert load_generator("config_table").fill(text) == text, "run: python docs/config_table.py --write"
        assert all(f"| `{key}` |" in text for key in KEYS)

    @pytest.mark.parametrize("key", KEYS)
    def test_default_is_allowed(self, key: str) -> None:
        assert KEYS[key].convert(KEYS[key].default) == KEYS[key].default

    def test_keys_are_all_fields(self) -> None:
        assert list(KEYS) == list(flat(Config()))

    def test_preset_has_only_what_differs(self) -> None:
        in_file = yaml.safe_load(PRESET.read_text())
        preset, defaults = flat(load_config(PRESET)), flat(Config())
        differ = {key for key in KEYS if preset[key] != defaults[key]}
        assert differ == {f"{section}.{key}" for section, keys in in_file.items() for key in keys}

    def test_preset_steals_half_and_protects_nothing(self) -> None:
        preset = load_config(PRESET)
        assert preset.stealing.max_tasks == 0
        assert preset.order.protected_from == 6


class TestWhatIsGiven:
    def test_nothing_gives_the_defaults(self) -> None:
        assert load_config() == Config()
        assert load_config({}) == load_config(Config()) == Config()

    @pytest.mark.parametrize("text", ["", "# nothing\n", "balancing:\n", "\ufeffstrategy: hybrid\n"])
    def test_what_is_left_out_has_its_default(self, write: Write, text: str) -> None:
        assert load_config(write(text)) == Config()

    def test_a_path_is_text_or_path(self, write: Write) -> None:
        path = write("strategy: push\n")
        assert load_config(path) == load_config(str(path)) == load_config(strategy="push")

    def test_later_layers_win(self, write: Write) -> None:
        path = write("strategy: push\nbalancing: {interval_s: 1, check_s: 1, max_tasks: 1}\n")
        environ = {"MPSTEAL_BALANCING__CHECK_S": "2", "MPSTEAL_BALANCING__MAX_TASKS": "2"}
        config = load_config(path, environ=environ, balancing__max_tasks=3)
        assert config.balancing == BalancingRules(interval_s=1.0, check_s=2.0, max_tasks=3)
        assert config.strategy == "push"

    def test_environment_is_the_process_environment_unless_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MPSTEAL_STRATEGY", "pull")
        assert load_config().strategy == "pull"
        assert load_config(environ={}) == Config()

    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("STRATEGY", "pull", "pull"),
            ("BALANCING__INTERVAL_S", "5", 5.0),
            ("AGENTS__REPLACE_DEAD", "false", False),
            ("MATCHING__NORMAL", "[exact, fallback]", ["exact", "fallback"]),
            pytest.param("MATCHING__WILDCARD", "*", "*", id="text that is no YAML"),
            pytest.param("MATCHING__WILDCARD", "no", "no", id="text that YAML takes for something else"),
            pytest.param("MATCHING__WILDCARD", '"any"', "any", id="quoted"),
        ],
    )
    def test_environment_is_yaml_and_words_need_no_quotes(self, name: str, text: str, value: object) -> None:
        config = load_config(environ={"MPSTEAL_" + name: text})
        assert flat(config)[name.lower().replace("__", ".")] == value

    @pytest.mark.parametrize(
        "name",
        [
            "MPSTEAL_SEED",
            "MPSTEAL_BENCH_SELF",
            "MPSTEAL_DROPIN_ALARM_S",
            "MPSTEAL_TEST__WORD",
            "MPSTEAL_LOG_LEVEL",
            "MPSTEAL_HOME",
            "MPSTEAL_",
            "MPSTEAL",
            "STRATEGY",
        ],
    )
    def test_variables_of_others_are_left_alone(self, name: str) -> None:
        assert load_config(environ={name: "x"}) == Config()

    def test_a_section_may_be_given_whole(self) -> None:
        wanted = Config(balancing=BalancingRules(interval_s=5.0))
        assert load_config(balancing={"interval_s": 5}) == wanted
        assert load_config(balancing=BalancingRules(interval_s=5.0)) == wanted
        assert load_config({"balancing": BalancingRules(interval_s=5.0)}) == wanted
        assert load_config(environ={"MPSTEAL_BALANCING": "{interval_s: 5}"}) == wanted

    def test_a_config_can_be_changed_by_keywords(self) -> None:
        base = load_config(strategy="pull")
        config = load_config(base, stealing__max_tasks=0)
        assert config == Config(strategy="pull", stealing=StealingRules(max_tasks=0))
        assert base.stealing.max_tasks == 3

    def test_an_int_does_for_a_float(self) -> None:
        assert type(load_config(balancing__interval_s=5).balancing.interval_s) is float

    def test_describe_is_plain_and_goes_back_in(self) -> None:
        config = load_config(strategy="push", matching__normal=("exact", "fallback"))
        data = json.loads(json.dumps(describe(config)))
        assert data == describe(config)
        assert load_config(data) == config

    def test_config_is_frozen_hashable_and_survives_a_pickle(self) -> None:
        config = load_config(strategy="pull")
        for part in (config, *(getattr(config, section) for section in SECTIONS)):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(part, dataclasses.fields(part)[0].name, None)
        assert pickle.loads(pickle.dumps(config)) == config
        assert hash(config) == hash(load_config(strategy="pull"))

    def test_defaults_need_no_yaml(self) -> None:
        code = "import sys, mpsteal.config as c; c.load_config(strategy='pull'); sys.exit('yaml' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, check=False).returncode == 0


class TestUnknownKey:
    def test_says_all_it_knows(self, write: Write) -> None:
        path = write("# rules\nstrategy: pull\n\nbalancing:\n  check_s: 1\n  intervall_s: 5\n")
        error = wrong(path)
        assert (error.file, error.line, error.key) == (str(path), 6, "balancing.intervall_s")
        assert error.found == "an unknown key"
        assert error.allowed == "interval_s, severe_ratio, check_s, max_tasks"
        assert error.nearest == "balancing.interval_s"
        assert str(error) == (
            f"{path}:6: balancing.intervall_s: found an unknown key; allowed: interval_s, severe_ratio, check_s, "
            "max_tasks; did you mean balancing.interval_s?"
        )

    @pytest.mark.parametrize(
        ("key", "nearest"),
        [
            pytest.param("strategie", "strategy", id="typo at the top"),
            pytest.param("STRATEGY", "strategy", id="capitals"),
            pytest.param("balancng", "balancing", id="typo in a section"),
            pytest.param("balancng.interval_s", "balancing.interval_s", id="typo in the section of a key"),
            pytest.param("balance.x", "balancing", id="only the section is like one"),
            pytest.param("interval_s", "balancing.interval_s", id="without its section"),
            pytest.param("agents.interval_s", "balancing.interval_s", id="in the wrong section"),
            pytest.param("stealing.max_task", "stealing.max_tasks", id="its own section first"),
            pytest.param("strategy.x", "strategy", id="below a key that is no section"),
            pytest.param("order.xyz", None, id="like none, in a section"),
            pytest.param("xyz", None, id="like none"),
        ],
    )
    def test_nearest_known_key(self, key: str, nearest: str | None) -> None:
        error = wrong(**{key.replace(".", "__"): 1})
        assert (error.key, error.nearest) == (key, nearest)

    def test_keys_that_are_no_words(self, write: Write) -> None:
        assert wrong(write("7: 1\n")).key == "7"
        assert wrong(write("? [a, b]\n: 1\n")).key == "?"
        assert wrong({7: 1}).key == "7"

    @pytest.mark.parametrize("name", ["MPSTEAL_AGENTS__MAX_AGENT", "MPSTEAL_AGENT__MAX_AGENTS"])
    def test_in_the_environment(self, name: str) -> None:
        error = wrong(environ={name: "1"})
        assert (error.file, error.line) == ("environment", None)
        assert error.nearest == "agents.max_agents"
        assert str(error).endswith("; did you mean MPSTEAL_AGENTS__MAX_AGENTS?")

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            pytest.param("STRATEGI", "strategy", id="typo at the top"),
            pytest.param("METRIC", "metrics", id="typo in a section"),
            pytest.param("BALANCING_INTERVAL_S", "balancing.interval_s", id="one underscore for two"),
            pytest.param("BALANCNG_INTERVAL_S", "balancing.interval_s", id="the same with a typo"),
            pytest.param("INTERVAL_S", "balancing.interval_s", id="without its section"),
            pytest.param("MAX_AGENT", "agents.max_agents", id="the same with a typo in the key"),
            pytest.param("XYZ__INTERVAL_S", "balancing.interval_s", id="another section"),
            pytest.param("ORDER_ASK_S", "order.ask_s", id="short"),
        ],
    )
    def test_a_misspelt_variable_is_not_ignored(self, name: str, nearest: str) -> None:
        error = wrong(environ={"MPSTEAL_" + name: "1"})
        assert (error.file, error.line, error.nearest) == ("environment", None, nearest)
        assert error.found == "an unknown key"
        assert str(error).endswith(f"; did you mean MPSTEAL_{nearest.upper().replace('.', '__')}?")


class TestWrongValue:
    @pytest.mark.parametrize(
        ("key", "text", "found", "allowed"),
        [
            ("strategy", "pul", "the text 'pul'", "hybrid, pull or push"),
            ("strategy", "[pull]", "['pull']", "hybrid, pull or push"),
            ("agents.max_agents", "0", "0", "a whole number, 1 to 4096 (agents)"),
            ("agents.max_agents", "4097", "4097", "a whole number, 1 to 4096 (agents)"),
            ("agents.max_agents", "4.0", "4.0", "a whole number, 1 to 4096 (agents)"),
            ("agents.max_agents", "true", "true", "a whole number, 1 to 4096 (agents)"),
            ("agents.max_agents", "", "nothing", "a whole number, 1 to 4096 (agents)"),
            ("agents.busy_above", "{a: 1}", "a mapping", "a whole number, 0 or more (tasks)"),
            ("agents.replace_dead", "1", "1", "true or false"),
            ("balancing.interval_s", "0", "0", "a finite number, above 0 (seconds)"),
            ("balancing.interval_s", ".inf", "inf", "a finite number, above 0 (seconds)"),
            ("balancing.interval_s", ".nan", "nan", "a finite number, above 0 (seconds)"),
            ("balancing.interval_s", "soon", "the text 'soon'", "a finite number, above 0 (seconds)"),
            ("balancing.severe_ratio", "0.9", "0.9", "a finite number, 1 or more (ratio)"),
            ("order.protected_from", "7", "7", "a whole number, 1 to 6 (priority)"),
            ("matching.wildcard", "''", "the text ''", "a text, not empty"),
            ("matching.wildcard", "5", "5", "a text, not empty"),
        ],
    )
    def test_says_what_is_there_and_what_may_be(
        self, write: Write, key: str, text: str, found: str, allowed: str
    ) -> None:
        section, _, name = key.rpartition(".")
        path = write(f"\n{section}:\n  {name}: {text}\n" if section else f"\n\n{name}: {text}\n")
        error = wrong(path)
        assert (error.file, error.line, error.key) == (str(path), 3, key)
        assert (error.found, error.allowed, error.nearest) == (found, allowed, None)
        assert str(error) == f"{path}:3: {key}: found {found}; allowed: {allowed}"

    @pytest.mark.parametrize(
        "value", [[], ["best_fit", "exact"], ["exact", "exact"], ["exact", "any"], "exact", [1], None]
    )
    def test_ways_to_match_are_a_list_in_order(self, value: object) -> None:
        error = wrong(matching__normal=value)
        assert error.allowed == "a list of one or more of exact, best_fit and fallback, in this order"

    @pytest.mark.parametrize("text", ["1e-3", "'0.5'"])
    def test_a_number_that_is_none_to_yaml_gets_advice(self, write: Write, text: str) -> None:
        error = wrong(write(f"order:\n  ask_s: {text}\n"))
        assert "an exponent needs a dot and a sign, as in 1.0e-3" in error.found

    def test_a_number_too_long_for_a_float(self) -> None:
        assert wrong(balancing__interval_s=10**400).key == "balancing.interval_s"
        assert wrong(agents__max_agents=10**5000).found == "a huge number"

    def test_what_is_found_is_kept_short(self) -> None:
        assert len(wrong(strategy="x" * 1000).found) < 80
        assert len(wrong(strategy=list(range(1000))).found) < 80

    @pytest.mark.parametrize(
        "text",
        ["!!int ''", "!!timestamp x", "!!python/name:os.system", "2020-13-45"],
        ids=["empty int", "no time", "tag that is not safe", "no date"],
    )
    @pytest.mark.parametrize("key", ["order.ask_s", "order"])
    def test_a_tag_that_yaml_cannot_make(self, write: Write, key: str, text: str) -> None:
        section, _, name = key.rpartition(".")
        error = wrong(write(f"\n{section}:\n  {name}: {text}\n" if section else f"\n\n{name}: {text}\n"))
        assert (error.line, error.key) == (3, key)
        assert "YAML cannot make" in error.found

    def test_an_alias_to_itself(self, write: Write) -> None:
        assert wrong(write("order: &a\n  ask_s: *a\n")).line == 2
        assert wrong(write("order: &a\n  order: *a\n")).key == "order.order"

    @pytest.mark.parametrize("text", ["5", "[1]", "all"])
    def test_a_section_is_a_mapping(self, write: Write, text: str) -> None:
        error = wrong(write(f"strategy: pull\nstealing: {text}\n"))
        assert (error.line, error.key) == (2, "stealing")
        assert error.allowed == "a mapping of max_tasks"

    @pytest.mark.parametrize(
        ("file", "given"),
        [
            ("a mapping", {"source": {"agents": {"max_agents": 0}}}),
            ("a Config", {"source": Config(agents=AgentRules(max_agents=0))}),
            ("environment", {"environ": {"MPSTEAL_AGENTS__MAX_AGENTS": "0"}}),
            ("keyword", {"agents__max_agents": 0}),
        ],
    )
    def test_a_source_that_is_no_file_is_named(self, file: str, given: dict[str, Any]) -> None:
        error = wrong(**given)
        assert (error.file, error.line, error.key, error.found) == (file, None, "agents.max_agents", "0")
        assert str(error).startswith(f"{file}: agents.max_agents: found 0; ")

    def test_what_is_overridden_is_checked_too(self, write: Write) -> None:
        assert wrong(write("strategy: pul\n"), strategy="pull").line == 1


class TestValuesThatDoNotGoTogether:
    @pytest.mark.parametrize(("idle", "busy"), [(1, 0), (6, 5), (2, 1)])
    def test_the_bound_itself_is_allowed(self, idle: int, busy: int) -> None:
        config = load_config(agents__idle_below=idle, agents__busy_above=busy)
        assert (config.agents.idle_below, config.agents.busy_above) == (idle, busy)

    @pytest.mark.parametrize(
        ("text", "line", "key", "allowed"),
        [
            ("agents:\n  idle_below: 7\n", 2, "idle_below", "6 or less while agents.busy_above is 5"),
            ("agents:\n  busy_above: 0\n", 2, "busy_above", "1 or more while agents.idle_below is 2"),
            (
                "agents:\n  busy_above: 1\n  idle_below: 4\n",
                3,
                "idle_below",
                "2 or less while agents.busy_above is 1",
            ),
        ],
    )
    def test_the_key_that_was_given_is_blamed(self, write: Write, text: str, line: int, key: str, allowed: str) -> None:
        error = wrong(write(text))
        assert (error.line, error.key, error.allowed) == (line, f"agents.{key}", allowed)

    def test_the_layer_that_broke_it_is_blamed(self, write: Write) -> None:
        path = write("agents:\n  idle_below: 4\n")
        error = wrong(path, agents__busy_above=1)
        assert (error.file, error.line, error.key, error.found) == ("keyword", None, "agents.busy_above", "1")


class TestMalformed:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            pytest.param("agents:\n\tmax_agents: 5\n", 2, id="tab"),
            pytest.param("strategy: pull\nmatching:\n  wildcard: *\n", 3, id="bare star"),
            pytest.param("strategy: pull\n\nagents: {max_agents: 5\n", 4, id="open brace, seen at the end"),
            pytest.param("strategy: pull\n strategy: push\n", 2, id="indented"),
            pytest.param("strategy: pull\n---\nstrategy: push\n", 2, id="two documents"),
            pytest.param(b"strategy: pull\n# \xff\n", 2, id="no UTF-8"),
            pytest.param("strategy: pull\n# \x01\n", 2, id="control character"),
            pytest.param("[" * 5000, None, id="too deep"),
        ],
    )
    def test_line_is_the_parsers(self, write: Write, text: str, line: int | None) -> None:
        path = write(text)
        error = wrong(path)
        assert (error.file, error.line, error.key) == (str(path), line, None)
        assert error.found.startswith("malformed YAML (")
        assert len(str(error).splitlines()) == 1

    @pytest.mark.parametrize(("text", "found"), [("\n- strategy\n", "a list"), ("\npull\n", "a single value")])
    def test_no_mapping(self, write: Write, text: str, found: str) -> None:
        error = wrong(write(text))
        assert (error.line, error.key, error.found) == (2, None, found)
        assert error.allowed.startswith("a mapping of strategy, agents, ")

    @pytest.mark.parametrize(
        ("text", "line", "key"),
        [
            ("strategy: pull\nstrategy: pull\n", 2, "strategy"),
            ("stealing: {max_tasks: 1}\norder: {}\nstealing: {}\n", 3, "stealing"),
            ("order:\n  ask_s: 1\n  short_s: 1\n  ask_s: 1\n", 4, "order.ask_s"),
        ],
    )
    def test_a_key_given_twice(self, write: Write, text: str, line: int, key: str) -> None:
        error = wrong(write(text))
        assert (error.line, error.key, error.allowed) == (line, key, "each key once")
        assert error.found.startswith("the key a second time; the first is in line ")

    def test_a_key_given_twice_by_keywords(self) -> None:
        error = wrong(order={"ask_s": 1}, order__ask_s=1)
        assert (error.file, error.key, error.found) == ("keyword", "order.ask_s", "the key a second time")

    def test_a_missing_file_is_the_error_it_always_is(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            load_config(tmp_path / "none.yaml")

    @pytest.mark.parametrize("source", [5, b"rules.yaml", ["strategy"]])
    def test_a_source_of_another_kind(self, source: Any) -> None:
        with pytest.raises(TypeError, match="source must be"):
            load_config(source)


def test_error_is_a_value_error_and_survives_a_pickle(write: Write) -> None:
    error = wrong(write("stealing:\n  max_task: 1\n"))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ConfigError and isinstance(again, ValueError)
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert again.nearest == "stealing.max_tasks"
