"""Parsing of what a user types."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

import pytest

from horovod_client import InvalidInput
from horovod_client.cli.request_arguments import parse_hyperparameters

JSON = '{"epochs": 3, "name": "größe"}'


@pytest.mark.parametrize(
    "content",
    [
        JSON.encode(),
        codecs.BOM_UTF8 + JSON.encode(),
        codecs.BOM_UTF16_LE + JSON.encode("utf-16-le"),
        JSON.encode("utf-16-le"),
    ],
)
def test_reads_files_of_every_editor(tmp_path: Path, content: bytes) -> None:
    """A JSON file may have a byte order mark or be in UTF-16, as editors and shells of Windows write it."""
    # GIVEN
    file = tmp_path / "parameters.json"
    file.write_bytes(content)

    # THEN
    assert parse_hyperparameters(f"@{file}") == {"epochs": 3, "name": "größe"}


def test_says_what_is_wrong_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file and the place in it, and says what to do."""
    # GIVEN
    monkeypatch.chdir(tmp_path)
    Path("latin.json").write_bytes(JSON.encode("latin-1"))
    Path("broken.json").write_text('{"epochs": }')
    sentences = {
        "@latin.json": "UTF-8 text, got '@latin.json', which is invalid at byte 26: save it as UTF-8",
        "@broken.json": "must be JSON, like '{\"epochs\": 3}', got '@broken.json': Expecting value: line 1 column 12",
        "broken.json": "Expecting value: line 1 column 1 (char 0); write '@broken.json' to read that file",
        "[" * 500_000: f"got '{'[' * 200}…' (500000 characters): ",
    }

    # THEN
    for value, sentence in sentences.items():
        with pytest.raises(InvalidInput, match=f"^'--hyperparameters' .*{re.escape(sentence)}"):
            parse_hyperparameters(value)
