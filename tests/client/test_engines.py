"""`cdk-horovod engines`: all engines side by side, with prices and without."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from horovod_client.cli import main
from horovod_client.engines import ENGINES
from horovod_client.prices.cache import CachedPrices, PriceCache

WIDTH = 100


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoint: str) -> PriceCache:
    """Give the user a cache with the prices of two types, and with none of any other."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache = PriceCache(tmp_path / "cache" / "cdk-horovod" / "prices")
    place, now = (urlsplit(endpoint).netloc, "eu-west-1"), time.time()
    for name, usd in {"g5.12xlarge": 6.0, "ml.g5.12xlarge": 7.5}.items():
        cache.write(*place, "on-demand", name, prices=CachedPrices(at=now, usd={"": usd}))
    cache.write(*place, "spot", "g5.12xlarge", prices=CachedPrices(at=now, usd={"a": 3.0, "b": 2.0}))
    return cache


def cells(line: str) -> list[str]:
    """Split a line of the table at its columns."""
    return [cell for cell in line.split("  ") if cell]


def row(out: str, label: str) -> list[str]:
    """Find the first line of a row, without its label."""
    (line, *_) = [line for line in out.splitlines() if line.startswith(f"{label}  ")]
    return [cell.strip() for cell in cells(line)[1:]]


def test_shows_all_engines_with_their_prices(capsys: pytest.CaptureFixture[str]) -> None:
    """The table has a column for each engine and its costs in each market, and fits into 100 columns."""
    # WHEN
    code = main(["engines", "--gpus", "16", "--hours", "3"])
    # THEN
    captured = capsys.readouterr()
    heading, _, names, *lines = captured.out.splitlines()
    assert (code, captured.err) == (0, "")
    assert heading.startswith("16 GPUs for 3 hours in eu-west-1; prices of ")
    assert names.split() == [engine.name for engine in ENGINES]
    assert row(captured.out, "g5.12xlarge, nodes") == ["4 of g5.12xlarge", "4 of g5.12xlarge", "4 of ml.g5.12xlarge"]
    assert row(captured.out, "On-Demand USD") == ["72.00", "72.00", "90.00"]
    assert row(captured.out, "Spot USD") == ["24.00 to 36.00", "24.00 to 36.00", "known only from the"]
    assert row(captured.out, "several types in a ring") == ["yes", "yes", "no: one type a job"]
    assert max(map(len, lines)) <= WIDTH


def test_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get the same facts and amounts; a type that an engine has not is left out."""
    # WHEN
    code = main(["engines", "--gpus", "16", "--type", "g5.12xlarge", "--type", "gr6.4xlarge", "--json"])
    # THEN
    found = json.loads(capsys.readouterr().out)
    of = {engine["engine"]: engine for engine in found["engines"]}
    assert (code, found["gpus"], found["hours"], found["region"]) == (0, 16, 1.0, "eu-west-1")
    assert [kind["instance_type"] for kind in of["ec2"]["types"]] == ["g5.12xlarge", "gr6.4xlarge"]
    assert [kind["instance_type"] for kind in of["sagemaker"]["types"]] == ["ml.g5.12xlarge"]
    assert of["ec2"]["types"][0]["spot_usd"] == {"least": 8.0, "most": 12.0}
    assert of["sagemaker"]["types"][0]["spot_usd"] is None
    assert of["sagemaker"]["facts"]["elastic"] == {"can": False, "how": "a job's instances are fixed", "source": ""}
    assert of["ec2"]["facts"]["image_pull"] == {"says": "not measured", "source": ""}


@pytest.mark.parametrize(
    ("unset", "heading", "says"),
    [
        (
            ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            "8 GPUs for 1 hour in eu-west-1; no prices",
            "the On-Demand price is not known for g4dn.metal: AWS did not answer pricing:GetProducts (Unable to locate",
        ),
        (
            ("AWS_DEFAULT_REGION",),
            "8 GPUs for 1 hour; no prices",
            "prices are not known: set AWS_REGION to the Region of the nodes",
        ),
    ],
)
def test_answers_without_prices(
    unset: tuple[str, ...],
    heading: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without credentials or Region there are no prices, and a sentence says why; all else is there."""
    # GIVEN
    for name in unset:
        monkeypatch.delenv(name)
    # WHEN
    code = main(["engines", "--gpus", "8", "--type", "g4dn.metal"])
    # THEN
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    assert captured.out.splitlines()[0] == heading
    assert says in " ".join(captured.out.split())
    assert row(captured.out, "On-Demand USD") == ["unknown", "unknown", "-"]
    assert row(captured.out, "elastic ring")[:2] == ["yes", "yes"]


def test_answers_without_a_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An endpoint that cannot be reached is a sentence, and no error."""
    # GIVEN a port at which nobody listens
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    # WHEN
    code = main(["engines", "--gpus", "16"])
    # THEN
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    assert "AWS did not answer pricing:GetProducts (Could not connect" in " ".join(captured.out.split())


def test_answers_with_an_unknown_profile(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A profile that does not exist is a sentence, and no error."""
    # GIVEN
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    # WHEN
    code = main(["engines", "--gpus", "16"])
    # THEN
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    assert "prices are not known: no usable AWS credentials (The config profile (nobody) could not be found)" in (
        " ".join(captured.out.split())
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpus", "6"], "'--gpus' must be a multiple of 4, the GPUs of g5.12xlarge, got 6"),
        (["--gpus", "4", "--hours", "0"], "'hours' must be more than 0, got 0.0"),
        (
            ["--gpus", "4", "--type", "g5.12xlrge"],
            "'--type' must be a GPU type of EC2 that runs can use, such as g5.12xlarge, got g5.12xlrge",
        ),
    ],
)
def test_refuses_in_one_sentence(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is refused in one sentence."""
    assert main(["engines", *arguments]) == 2
    assert capsys.readouterr().err == f"cdk-horovod: {says}\n"
