"""The splitter and the expressions in words."""

from __future__ import annotations

import shlex
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctlab.errors import BadInput
from ctlab.words import (
    as_word,
    continue_line,
    expand,
    find_expression,
    has_expression,
    join,
    scan,
    shell_command,
    split,
    split_command,
    unexpanded_name,
)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
# Characters that mean something to a shell or to the expressions, so that they meet often.
tricky = st.text("ab {}'\"\\#;|&$()<>`\n\t-=:!1", max_size=14)


@given(st.lists(texts | tricky, max_size=6))
def test_quoted_words_come_back(words: list[str]) -> None:
    line = " ".join(shlex.quote(word) for word in words)
    assert split(line) == words
    assert split(join(words)) == words


@given(st.lists(texts | tricky, max_size=6))
def test_what_is_quoted_is_one_word_in_the_head_too(words: list[str]) -> None:
    assert [word.text for word in scan(join(words)).words] == words


@given(st.lists(st.text("ab \"'\\\n\t", max_size=10)))
def test_agrees_with_the_standard_library_where_both_apply(parts: list[str]) -> None:
    line = " ".join(parts)
    try:
        expected = shlex.split(line)
    except ValueError:
        return
    try:
        words = split(line)
    except BadInput as error:
        # A second line is refused here, and shlex knows no continuation of lines.
        assert "\n" in line or "backslash" in str(error)
    else:
        if "\\\n" not in line:
            assert words == expected


@given(tricky)
def test_any_text_is_split_or_refused_in_one_line(line: str) -> None:
    try:
        words = split(line)
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(word, str) for word in words)


@given(tricky)
def test_places_are_places_in_the_line(line: str) -> None:
    try:
        result = scan(line, "none")
    except BadInput:
        return
    previous = 0
    for word in result.words:
        assert previous <= word.start < word.end <= len(line)
        previous = word.end
        # A word read alone, from its place in the line, is the same word (an escape at the very end is left open).
        alone = scan(line[word.start : word.end], "none").words
        assert [part.text for part in alone] == [word.text]


@pytest.mark.parametrize(
    ("line", "words", "silenced"),
    [
        ("", [], False),
        ("  \t ", [], False),
        (";", [], True),
        ("ps;", ["ps"], True),
        ("ps ; # why", ["ps"], True),
        ("ps \\;", ["ps", ";"], False),
        ("ps ';'", ["ps", ";"], False),
        ("a#b #c", ["a#b"], False),
        ("#all", [], False),
        ("'' \"\"", ["", ""], False),
        ("a''b\"c\"'d'", ["abcd"], False),
        ("a \\\n  b", ["a", "b"], False),
        ("a\\\nb", ["ab"], False),
        ('"a\\\nb" "\\x\\"\\\\"', ["ab", '\\x"\\'], False),
        ("'a\nb'", ["a\nb"], False),
        ("a \n\n # c\n", ["a"], False),
        ("\n a", ["a"], False),
        ("a$ $ 5$, $-", ["a$", "$", "5$,", "$-"], False),
        ("é ü\u3000x", ["é", "ü\u3000x"], False),
    ],
)
def test_split_like_a_shell(line: str, words: list[str], silenced: bool) -> None:
    result = scan(line, "none")
    assert result.operator is None
    assert [word.text for word in result.words] == words
    assert result.silenced is silenced


@pytest.mark.parametrize(
    ("line", "operator", "before"),
    [
        ("a | b", "|", ["a"]),
        ("a||b", "||", ["a"]),
        ("a;b", ";", ["a"]),
        ("a ; b", ";", ["a"]),
        ("a;;", ";;", ["a"]),
        ("a &", "&", ["a"]),
        ("a>b", ">", ["a"]),
        ("a 2>b", "2>", ["a"]),
        ("a '2'>b", ">", ["a", "2"]),
        ("a <<E", "<<", ["a"]),
        ("`x`", "`", []),
        ("a$HOME", "$HOME", ["a"]),
        ("${HOME}", "${", []),
        ("$(x)", "$(", []),
        ("$1", "$1", []),
        ("$?", "$?", []),
        ("'a\nb' | c", "|", ["a\nb"]),
    ],
)
def test_what_only_a_shell_can_do(line: str, operator: str, before: list[str]) -> None:
    result = scan(line, "none")
    assert result.operator is not None
    assert result.operator.text == operator
    assert line[result.operator.start :].startswith(operator)
    assert [word.text for word in result.words] == before
    with pytest.raises(BadInput, match="needs a shell"):
        split(line)


def test_a_shell_is_offered_in_each_face_of_the_package() -> None:
    with pytest.raises(BadInput) as from_line:
        split("ls | grep 'a b'")
    assert str(from_line.value).endswith("type: -- " + shell_command("ls | grep 'a b'"))
    assert split(str(from_line.value).partition("type: -- ")[2]) == ["sh", "-c", "ls | grep 'a b'"]
    with pytest.raises(BadInput) as from_python:
        split_command("ls | head")
    assert str(from_python.value).endswith("type: ['sh', '-c', 'ls | head']")
    assert split_command(" sleep 9; ") == ["sleep", "9"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a 'b c", r"a quote isn't closed: '\\'b c'|a quote isn't closed: \"'b c\""),
        ('a "b', "a quote isn't closed"),
        ('a "b\\"', "a quote isn't closed"),
        ("a\0b", "NUL"),
        ("a\nb", "a second line"),
        ("a\u00a0b", "no-break space"),
        ("a \\", "ends in a backslash"),
    ],
)
def test_refused(line: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        split(line)


@pytest.mark.parametrize(
    ("line", "body", "joined", "rest"),
    [
        ("exec web", "a\nb", "exec web", "a\nb"),
        ("exec web \\", "-- cat\nb", "exec web \\\n-- cat", "b"),
        ("exec \\", "web \\\n-- cat\nb\n", "exec \\\nweb \\\n-- cat", "b\n"),
        ("exec web # \\", "a", "exec web # \\", "a"),
        ("exec web \\\\", "a", "exec web \\\\", "a"),
        ("exec web \\", "", "exec web \\", ""),
    ],
)
def test_a_cell_magics_first_line_goes_on(line: str, body: str, joined: str, rest: str) -> None:
    assert continue_line(line, body) == (joined, rest)


def test_expressions_stay_one_word_before_the_dashes_only() -> None:
    line = 'run --name {d["a b"]} -e {x > 1} -- awk {print $1}'
    result = scan(line.replace("$1", "x"))
    assert [word.text for word in result.words] == [
        "run", "--name", '{d["a b"]}', "-e", "{x > 1}", "--", "awk", "{print", "x}",
    ]  # fmt: skip
    assert [word.text for word in scan("{a or b} {c}", "none").words] == ["{a", "or", "b}", "{c}"]
    assert [word.text for word in scan("{a or b} {c}", "head").words] == ["{a or b}", "{c}"]
    assert [word.text for word in scan("a -- {x + 1}", "all").words] == ["a", "--", "{x + 1}"]


NAMESPACE: dict[str, object] = {"x": 3, "d": {"a b": 5, "}": 1}, "name": "w", "_y": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("{x}", "3"),
        ("a{x}b{name}c", "a3bwc"),
        ("{ x}", "{ x}"),
        ("{_y}", "None"),
        ("{{x}}", "{x}"),
        ("{{{x}}}", "{3}"),
        ("{{", "{"),
        ("}}", "}}"),
        ('{"a":{"b":1}}', '{"a":{"b":1}}'),
        ("{}{1}{'x'}", "{}{1}{'x'}"),
        ("{d['}']}", "1"),
        ("{d['a b']:03}", "005"),
        ("{x!r:>5}", "    3"),
        ("{x != 3}", "False"),
        ("{sum(i * x for i in range(x))}", "9"),
        ("{(lambda: x)()}", "{(lambda: x)()}"),
        ("{[i for i in range(x)][-1]}", "{[i for i in range(x)][-1]}"),
        ("{len(name)}", "1"),
    ],
)
def test_expand(text: str, expected: str) -> None:
    assert expand(text, NAMESPACE) == expected


@pytest.mark.parametrize(
    "text", ["{y}", "{x", "{x +}", "{x y}", "{x.y}", "{x / 0}", "{nome}", "{x:{name}}", "{d['c']}"]
)
def test_expand_refuses(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        expand(text, NAMESPACE)
    assert "\n" not in str(caught.value)
    assert "__builtins__" not in NAMESPACE


def test_an_undefined_name_is_met_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean 'name'"):
        expand("{nam}", NAMESPACE)


def test_a_user_interrupt_is_not_an_input_error() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        expand("{f()}", {"f": interrupted})


@given(texts | tricky)
def test_a_value_is_never_expanded_again(value: str) -> None:
    assert expand("<{x}>", {"x": value}) == f"<{value}>"


@given(texts | tricky)
def test_doubled_braces_are_braces(text: str) -> None:
    # `}}` is one brace only after a `{{`, so every closing brace is doubled just if one has been opened.
    escaped, depth = "", 0
    for character in text:
        if character == "{":
            escaped, depth = escaped + "{{", depth + 1
        elif character == "}" and depth:
            escaped, depth = escaped + "}}", depth - 1
        else:
            escaped += character
    assert not has_expression(escaped)
    if "}}" not in text:
        assert expand(escaped, {}) == text


@given(st.text("x{}[]()'\":!1 +", max_size=12))
def test_found_expressions_are_python(text: str) -> None:
    found = find_expression("{" + text, 0)
    if found is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # "1()" is Python, if not wise
            compile(found.code, "", "eval")
        assert ("{" + text)[found.end - 1] == "}"


def test_notes_are_for_defined_names_only() -> None:
    assert unexpanded_name("{x}", NAMESPACE) == "x"
    assert [unexpanded_name(text, NAMESPACE) for text in ("{y}", "{x} ", "a{x}", "{x.y}", "{len}")] == [None] * 5


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\u00a0")))
def test_a_word_is_read_back_and_nothing_in_it_is_evaluated(text: str) -> None:
    [read] = scan(f"cp {as_word(text)}").words[1:]
    assert expand(read.text, {}) == text
