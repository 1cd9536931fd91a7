"""Instance metadata over HTTP: its tokens, and a service that is busy or away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from horovod_node.node.instance_metadata import InstanceMetadata
from support.node.emulated_aws import MetadataService


@pytest.fixture
def service() -> Iterator[MetadataService]:
    with closing(MetadataService({"instance-id": "i-1"})) as service:
        yield service


def test_one_token_serves_many_requests(service: MetadataService) -> None:
    """A token is asked for once."""
    # GIVEN
    metadata = InstanceMetadata(service.endpoint)
    # WHEN
    read = [metadata.read("instance-id") for _ in range(3)]
    # THEN
    assert (read, service.tokens_given) == (["i-1"] * 3, 1)


def test_an_expired_token_is_renewed(service: MetadataService) -> None:
    """The service says that a token has expired; the next one has the answer."""
    # GIVEN
    metadata = InstanceMetadata(service.endpoint)
    metadata.read("instance-id")
    # WHEN
    service.metadata.expire_tokens()
    # THEN
    assert metadata.read("instance-id") == "i-1"
    assert service.tokens_given == 2


def test_fails_when_no_token_is_taken(service: MetadataService) -> None:
    """A service that refuses a token that it just gave is not asked for another."""
    # GIVEN
    service.forgetful = True
    # WHEN / THEN
    with pytest.raises(OSError, match="401"):
        InstanceMetadata(service.endpoint).read("instance-id")
    assert service.tokens_given == 1


def test_a_busy_service_is_asked_again(service: MetadataService) -> None:
    """The service answers 503 for a moment after a boot."""
    # GIVEN
    service.busy = 2
    # WHEN / THEN
    assert InstanceMetadata(service.endpoint).read("instance-id") == "i-1"


def test_fails_at_once_when_one_attempt_is_wanted(service: MetadataService) -> None:
    """Who asks again anyway need not wait here."""
    # GIVEN
    service.away = True
    # WHEN / THEN
    with pytest.raises(OSError, match=r"."):
        InstanceMetadata(service.endpoint, attempts=1).read("instance-id")
    assert len(service.asked) == 1


def test_fails_when_there_is_no_such_item(service: MetadataService) -> None:
    """An item that does not exist is not asked for again."""
    with pytest.raises(OSError, match="404"):
        InstanceMetadata(service.endpoint).read("spot/instance-action")
    assert len(service.asked) == 2


def test_an_item_may_be_absent(service: MetadataService) -> None:
    """Where absence is an answer, it is no error."""
    # GIVEN
    metadata = InstanceMetadata(service.endpoint)
    # WHEN / THEN
    assert metadata.find("instance-id") == "i-1"
    assert metadata.find("spot/instance-action") is None
