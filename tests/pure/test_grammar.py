"""Lines of magics: what is understood and what is refused, word for word against golden files.

A golden file holds blocks of an input line (`%noun …`, `%%noun …`, a `\\` at its end joins the next) and its result,
`-> Kind: message` or `=> what was understood`. `python tests/pure/test_grammar.py` writes the results anew; read the
difference before keeping it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctlab.ask.readers import READERS, is_expected, parse_expect
from ctlab.errors import CtlabError
from ctlab.notebook.grammar import NOUNS, Parsed, help_text, parse
from ctlab.units import format_size, parse_size
from ctlab.words import join

GOLDEN = Path(__file__).parent.parent / "golden" / "grammar"
NAMESPACE: dict[str, object] = {
    "web": "web7",
    "n": 3,
    "mem": "64M",
    "limits": {"big one": 2},
    "flag": "--rm",
    "empty": "",
}


def result(line: str) -> str:
    """What a line gives, in the golden files' words."""
    magic, _, rest = line.partition(" ")
    cell = magic.startswith("%%")
    try:
        parsed = parse(magic.lstrip("%"), rest, NAMESPACE, cell=cell)
    except CtlabError as error:
        assert "\n" not in str(error)
        return f"-> {type(error).__name__}: {error}"
    return f"=> {shown(parsed)}"


def shown(parsed: Parsed) -> str:
    if parsed.help is not None:
        return f"help: {parsed.help.splitlines()[0]}"
    parts = [parsed.verb, *(f"{key}={value!r}" for key, value in parsed.options.items())]
    if parsed.subjects:
        parts.append(f"subjects={parsed.subjects}")
    if parsed.command is not None:
        parts.append(f"command={parsed.command}")
    if parsed.silenced:
        parts.append("silenced")
    return " ".join(parts) + "".join(f" | note: {note}" for note in parsed.notes)


def blocks(text: str) -> list[tuple[str, str]]:
    """(input, result) of each block; the result is empty where none is written yet."""
    found: list[tuple[str, str]] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("%"):
            while line.endswith("\\"):
                line += "\n" + next(lines)
            found.append((line, ""))
        elif line.startswith(("-> ", "=> ")):
            found[-1] = (found[-1][0], line)
    return found


CASES = [
    pytest.param(line, expected, id=f"{path.stem}:{line[:60]}")
    for path in sorted(GOLDEN.glob("*.txt"))
    for line, expected in blocks(path.read_text())
]


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_golden(line: str, expected: str) -> None:
    assert result(line) == expected


def test_every_golden_file_says_something() -> None:
    assert len(CASES) > 150


def helps() -> dict[str, str]:
    texts = {noun: help_text(noun) for noun in NOUNS}
    for noun in NOUNS.values():
        if not noun.implicit:
            texts |= {f"{noun.name}-{verb.name}": help_text(noun.name, verb.name) for verb in noun.verbs}
    return texts


@pytest.mark.parametrize("name", sorted(helps()))
def test_help(name: str) -> None:
    assert (GOLDEN / "help" / f"{name}.txt").read_text() == helps()[name] + "\n"


def test_help_fits_a_cell() -> None:
    for text in helps().values():
        assert all(len(line) <= 110 for line in text.splitlines())


def test_table_is_consistent() -> None:
    for noun in NOUNS.values():
        names = [known for verb in noun.verbs for known in (verb.name, *verb.aliases)]
        assert len(names) == len(set(names))
        assert not set(names) & set(noun.absent_verbs)
        assert noun.later or noun.verb(noun.default)
        for verb in noun.verbs:
            longs = [option.name for option in verb.options]
            shorts = [option.short for option in verb.options if option.short]
            assert len(longs) == len(set(longs)), verb.name
            assert len(shorts) == len(set(shorts)), verb.name
            assert "h" not in shorts, "-h is help everywhere"
            assert "lab" in longs, "every verb takes --lab"
            assert not set(longs) & {absent.name for absent in verb.absent}, verb.name
            assert not set(shorts) & {absent.short for absent in verb.absent}, verb.name
            for option in verb.options:
                assert option.help
                assert option.is_flag or option.metavar
                assert option.is_flag or option.kind == "choice" or option.kind in READERS, option.name
            if verb.command != "none":
                assert len(verb.subjects) == 1, "Docker's rule: the command begins after the one subject"


def test_every_alias_is_its_verb() -> None:
    for noun in NOUNS.values():
        for verb in noun.verbs:
            assert all(noun.verb(alias) is verb for alias in verb.aliases)


def test_moment_takes_instants_and_times_ago() -> None:
    for text in ("2030-01-31T14:02:11+01:00", "2030-01-31 13:02:11.000000000+00:00", "1896094931"):
        since = parse("stats", f"--since '{text}'").options["since"]
        assert since == datetime(2030, 1, 31, 13, 2, 11, tzinfo=UTC)
    assert parse("stats", "--since 1m30s").options["since"] == 90.0


def test_expressions_see_the_namespace_and_leave_it_alone() -> None:
    namespace: dict[str, object] = {"x": 2}
    parsed = parse("container", "run --name w{sum(x for _ in range(x))} --memory '{x}g' -- echo {x}", namespace)
    assert (parsed.options["name"], parsed.options["memory"]) == ("w4", 2 << 30)
    assert parsed.command == ["echo", "{x}"]
    assert len(parsed.notes) == 1
    assert namespace == {"x": 2}


def test_expected_statuses() -> None:
    assert [is_expected(code, parse_expect("fail")) for code in (0, 1, 137)] == [False, True, True]
    assert [is_expected(code, parse_expect("any")) for code in (0, 255)] == [True, True]
    assert [is_expected(code, parse_expect("0,2")) for code in (0, 1, 2)] == [True, False, True]
    assert is_expected(0) and not is_expected(1)


words = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8), max_size=5)


@given(words)
def test_a_command_arrives_as_it_was_quoted(command: list[str]) -> None:
    parsed = parse("container", "exec web -- " + join(["prog", *command]), NAMESPACE)
    assert parsed.command == ["prog", *command]
    assert parsed.subjects == ["web"]


@given(words)
def test_dockers_form_and_ours_mean_the_same(command: list[str]) -> None:
    if "--" in command:
        return
    line = join(["prog", *command])
    assert parse("container", f"exec web {line}").command == parse("container", f"exec web -- {line}").command


@given(st.permutations(["--name a", "-d", "-m 64M", "--network=blue", "-e X=1", "system"]))
def test_before_the_dashes_the_order_means_nothing(parts: list[str]) -> None:
    parsed = parse("container", f"run {' '.join(parts)} -- sleep 9")
    assert parsed.options == {
        "name": "a", "detach": True, "memory": 64 << 20, "network": ["blue"], "env": ["X=1"],
    }  # fmt: skip
    assert (parsed.subjects, parsed.command) == (["system"], ["sleep", "9"])


@given(st.integers(1, 1 << 62))
def test_sizes_reach_the_option(size: int) -> None:
    assert parse("container", f"run -m {format_size(size)}").options["memory"] == parse_size(size) == size


starts = st.sampled_from(
    [
        "",
        "run ",
        "run -d --name x ",
        "exec web ",
        "exec web -- ",
        "run -x -- ",
        "create ",
        "stop ",
        "--last ",
        "cp a:/x ",
    ]
)
lines = st.text(max_size=20) | st.text("ab {}'\"\\#;|&$()<>`\n\t-=:!1nx", max_size=20)


@given(st.sampled_from(sorted(NOUNS)), st.builds(str.__add__, starts, lines), st.booleans())
def test_any_line_is_understood_or_refused_in_one_line(noun: str, line: str, cell: bool) -> None:
    try:
        parsed = parse(noun, line, {"a": 1, "b": "two\nlines"}, cell=cell)
    except CtlabError as error:
        assert "\n" not in str(error)
    else:
        assert NOUNS[noun].verb(parsed.verb)


def write() -> None:
    """Write the golden files' results anew."""
    for path in sorted(GOLDEN.glob("*.txt")):
        text = path.read_text()
        comments = [line for line in text.splitlines() if line.startswith("# ")]
        body = "\n\n".join(f"{line}\n{result(line)}" for line, _ in blocks(text))
        path.write_text("\n".join(comments) + "\n\n" + body + "\n")
    (GOLDEN / "help").mkdir(exist_ok=True)
    for name, text in helps().items():
        (GOLDEN / "help" / f"{name}.txt").write_text(text + "\n")


if __name__ == "__main__":
    write()
