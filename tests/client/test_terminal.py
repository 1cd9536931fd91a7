"""No text of scripts, nodes or callers can control the user's terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from horovod_client import Holder, LogLine, LostAttempt, NodeStatus, Run, RunFailed, RunStatus, TrainingClient
from horovod_client.cli import exit_codes, main
from horovod_client.cli.watch.render import draw
from horovod_client.text.terminal import printable, printable_json, printable_line

HOSTILE = (
    "\x1b]52;c;cm0gLXJm\x07\x1b]0;title\x1b\\\x1b[2J\x9b31m\x1b[3\x1b[1m1m\u202egnp.exe"
    "\r\x08\x7f\x85\x1bc[/x][bold]\ud800"
)
TEXT = st.text(
    st.characters() | st.sampled_from("\x1b\x9b\x9d\x07[]();mJ\\\r\n\t\b\x7f\u202e\u2066\u2028\ud800/"), max_size=60
) | st.just(HOSTILE)
ALLOWED_CONTROLS = "\n\t"
DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def harmful(text: str) -> set[str]:
    """Find the characters of *text* that a terminal obeys, or that turn it around."""
    controls = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)} - set(ALLOWED_CONTROLS)
    return {each for each in text if each in controls or each in DIRECTIONS or "\ud800" <= each <= "\udfff"}


@given(TEXT)
@example(HOSTILE)
def test_nothing_harmful_is_left(text: str) -> None:
    """No control character, override of direction or half of a pair remains, and what is safe stays as it is."""
    assert harmful(printable(text)) == harmful(printable_line(text)) == harmful(printable_json(text)) == set()
    assert printable(printable(text)) == printable(text)
    assert "\n" not in printable_line(text)
    if not harmful(text):
        assert printable(text) == text


@given(st.recursive(TEXT | st.integers(), lambda inner: st.dictionaries(TEXT, inner) | st.lists(inner), max_leaves=6))
def test_json_stays_the_same_document(document: Any) -> None:
    """JSON that is escaped for the terminal is the same document to a program."""
    assert json.loads(printable_json(json.dumps(document, ensure_ascii=False))) == document


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[32mgreen\x1b[0m and \x1b[1;38;5;9mred\x1b[m", "green and red"),
        ("1/3\r2/3\r3/3\r\nend", "1/3\n2/3\n3/3\nend"),
        ("10/10 [====]\x08\x08\x08", "10/10 [====]"),
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b]0;no end", "\\x1b]0;no end"),
        ("gnp.\u202eexe", "gnp.\\u202eexe"),
        ("größe 数据 😀 \u200d", "größe 数据 😀 \u200d"),
    ],
)
def test_what_people_wrote_can_be_read(text: str, shown: str) -> None:
    """Colours are removed, each state of a progress bar is a line, and other controls are spelled out."""
    assert printable(text) == shown


def hostile_status(text: str) -> RunStatus:
    """Make a status of which nodes, scripts or callers wrote every word."""
    node = NodeStatus(
        node=text,
        gpus=1,
        instance_type=text,
        market=text,
        zone=text,
        state=text,
        leads=True,
        seen_at=1.0,
        interruption=text,
    )
    return RunStatus(
        run="run",
        state="FAILED",
        error=text,
        cause=text,
        stage=text,
        notice=text,
        nodes=(node,),
        holders=(Holder(fleet=text, run=text, since=1),),
        restarts=(LostAttempt(attempt=1, at=1.0, error=text, cause=text),),
    )


@settings(max_examples=40, deadline=None)
@given(TEXT)
@example("[/x]")
@example(HOSTILE)
def test_the_live_view_shows_texts_as_they_are(text: str) -> None:
    """Square brackets are no markup, and only the view's own colours are sent."""
    # WHEN
    screen = io.StringIO()
    Console(file=screen, width=200, color_system=None).print(draw(hostile_status(text), now=10.0, lines=(text,)))
    # THEN
    assert harmful(screen.getvalue()) == set()


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Play a run of which everything that AWS tells is one text."""
    words = [""]
    receipt = {
        "run": "x",
        "outcome": "failed",
        "nodes": [{"node": "x", "instance_type": "x", "zone": "x", "market": "x"}],
        "image": "x",
        "cause": "x",
        "restarts": [{"attempt": 1, "error": "x", "cause": "x"}],
    }

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(item) for name, item in value.items()}
        if isinstance(value, list):
            return [filled(item) for item in value]
        return words[0] if value == "x" else value

    def fail(*_: object, **__: object) -> None:
        raise RunFailed(run="run", state="FAILED", error=words[0], cause=words[0])

    line = lambda: LogLine(at=1.0, node=words[0], speaker=words[0], text=words[0])  # noqa: E731
    monkeypatch.setattr(TrainingClient, "from_stack", lambda *_, **__: None)
    monkeypatch.setattr(Run, "from_id", lambda *_, **__: PlayedRun())

    class PlayedRun:
        name = "run"
        execution_arn = property(lambda _: words[0])
        model_uri = property(lambda _: words[0])

        def status(self) -> RunStatus:
            return hostile_status(words[0])

        def receipt(self) -> dict[str, Any]:
            return dict(filled(receipt))

        def logs(self, **_: object) -> Iterator[LogLine]:
            yield line()

        def stop(self, *_: object) -> None:
            raise ValueError(words[0])

        def download_model(self, _: object) -> str:
            return words[0]

        wait = fail

    return words


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "verb", ["status", "status --watch", "logs --all", "receipt", "stop", "stop --debug", "download"]
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXT)
@example(text=HOSTILE)
def test_no_verb_drives_the_terminal(
    played: list[str], capsys: pytest.CaptureFixture[str], verb: str, as_json: bool, text: str
) -> None:
    """No verb passes control characters from AWS to the terminal, in lines, JSON, errors or tracebacks."""
    # GIVEN
    played[0] = text
    # WHEN
    name, *options = verb.split()
    code = main([name, "run", *options, "--stack", "stack", *(["--json"] if as_json else [])])
    # THEN
    told = capsys.readouterr()
    assert harmful(told.out) == harmful(told.err) == set()
    assert told.out + told.err != ""
    assert (code == exit_codes.FAULT) == (name == "stop")  # which is played as a fault of the tool's own
