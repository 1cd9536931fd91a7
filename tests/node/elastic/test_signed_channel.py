"""Channels: what arrives is what was said, by whom it was said, in order, once."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horovod_node.elastic import signed_channel
from horovod_node.elastic.signed_channel import KEY_BYTES, Channel, ChannelClosedError, connect
from support.node.loopback import NONCE_BYTES, Wire, connected_pair, read, read_frame
from support.waiting import SECONDS

KEY = bytes(range(KEY_BYTES))
OTHER_KEY = bytes(KEY_BYTES)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A leader and a member, with the test as the network."""
    with closing(Wire(KEY)) as wire:
        yield wire


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call an end silent sooner than in a real ring."""
    monkeypatch.setattr(signed_channel, "SILENCE_SECONDS", 2.0)


def pair() -> tuple[Channel, Channel]:
    """Give a leader's and a member's end of one connection."""
    one, other = connected_pair()
    with ThreadPoolExecutor(1) as leader:
        leads = leader.submit(Channel, one, key=KEY, leads=True)
        follows = Channel(other, key=KEY, leads=False)
        return leads.result(), follows


def refused(end: Channel) -> ChannelClosedError:
    """Wait for the next message, which must not come, and give the reason."""
    with pytest.raises(ChannelClosedError) as reason:
        end.receive()
    return reason.value


@pytest.mark.usefixtures("short_silence")
def test_who_speaks_a_byte_at_a_time_is_as_good_as_silent(wire: Wire) -> None:
    """A stranger who sends single bytes, none of them late, holds a thread no longer than one who sends nothing."""
    # GIVEN
    ended = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            while not ended.wait(0.1):
                wire.at_leader.sendall(b"\0")

    wire.at_leader.sendall(struct.pack("!I", 1000))
    stranger = threading.Thread(target=drip)
    stranger.start()
    # WHEN
    reason = refused(wire.leader)
    ended.set()
    stranger.join()
    # THEN
    assert (str(reason), reason.silent) == ("silent for 2 s", True)


def test_messages_arrive_in_order() -> None:
    """Both ends speak at once; each hears everything the other said, in order."""
    # GIVEN
    leader, member = pair()
    with closing(leader), closing(member):
        # WHEN
        for number in range(200):
            leader.send({"start": number})
            member.send({"step": number})
        # THEN
        assert [member.receive() for _ in range(200)] == [{"start": number} for number in range(200)]
        assert [leader.receive() for _ in range(200)] == [{"step": number} for number in range(200)]


def test_any_thread_may_send() -> None:
    """Messages of several threads are never mixed, and each thread's stay in order."""
    # GIVEN
    leader, member = pair()
    with closing(leader), closing(member):

        def speak(thread: int) -> None:
            for number in range(100):
                member.send({"thread": thread, "number": number, "text": "x" * number})

        # WHEN
        speakers = [threading.Thread(target=speak, args=(thread,)) for thread in range(8)]
        for speaker in speakers:
            speaker.start()
        heard = [leader.receive() for _ in range(800)]
        for speaker in speakers:
            speaker.join()
        # THEN
        for thread in range(8):
            numbers = [message["number"] for message in heard if message["thread"] == thread]
            assert numbers == list(range(100))


@given(messages=st.lists(st.dictionaries(st.text(), JSON, max_size=4), min_size=1, max_size=5))
def test_whatever_is_said_is_heard(messages: list[dict[str, Any]]) -> None:
    """Every JSON object arrives as it was."""
    # GIVEN
    leader, member = pair()
    with closing(leader), closing(member):
        # WHEN
        for message in messages:
            leader.send(message)
        # THEN
        assert [member.receive() for _ in messages] == messages


def test_one_who_has_another_key_is_not_heard() -> None:
    """Not even the first message is taken, and the connection ends."""
    # GIVEN
    with closing(Wire(KEY, members_key=OTHER_KEY)) as wire:
        wire.member.send({"hello": {}})
        # WHEN
        wire.carry()
        reason = refused(wire.leader)
        # THEN
        assert (str(reason), reason.silent) == ("a message with a wrong signature", False)
        assert wire.at_leader.recv(1) == b""


@given(data=st.data())
def test_message_that_was_touched_is_not_heard(data: st.DataObject) -> None:
    """Whichever bit of signature or body is flipped on the way."""
    # GIVEN
    with closing(Wire(KEY)) as wire:
        wire.member.send({"exit": [1, 0, 0]})
        frame = bytearray(read_frame(wire.at_member))
        bit = data.draw(st.integers(8 * 4, 8 * len(frame) - 1))
        # WHEN
        frame[bit // 8] ^= 1 << bit % 8
        wire.at_leader.sendall(frame)
        # THEN
        assert str(refused(wire.leader)) == "a message with a wrong signature"


@pytest.mark.parametrize("change", [-1, 1])
def test_message_of_another_length_is_not_heard(wire: Wire, change: int) -> None:
    """The body that is signed ends where its sender ended it."""
    # GIVEN
    wire.member.send({"step": 1})
    frame = read_frame(wire.at_member)
    # WHEN
    (length,) = struct.unpack("!I", frame[:4])
    wire.at_leader.sendall(struct.pack("!I", length + change) + frame[4:] + b" ")
    # THEN
    assert str(refused(wire.leader)) == "a message with a wrong signature"


def test_recorded_connection_cannot_be_played_again() -> None:
    """Everything that a member ever sent, its greeting too, is worth nothing on a new connection."""
    # GIVEN
    with closing(Wire(KEY)) as recorded:
        recorded.member.send({"hello": {}})
        frame = recorded.carry()
        assert recorded.leader.receive() == {"hello": {}}
        session = recorded.member._session
    ours, theirs = connected_pair()
    with closing(ours), closing(theirs), ThreadPoolExecutor(1) as leader:
        # WHEN
        again = leader.submit(Channel, theirs, key=KEY, leads=True)
        read(ours, NONCE_BYTES)
        ours.sendall(session[NONCE_BYTES:])
        ours.sendall(frame)
        # THEN
        assert str(refused(again.result())) == "a message with a wrong signature"


def test_message_is_taken_once(wire: Wire) -> None:
    """The same bytes a second time are not heard."""
    # GIVEN
    wire.member.send({"broken": 1})
    frame = wire.carry()
    assert wire.leader.receive() == {"broken": 1}
    # WHEN
    wire.at_leader.sendall(frame)
    # THEN
    assert str(refused(wire.leader)) == "a message with a wrong signature"


def test_messages_cannot_change_places(wire: Wire) -> None:
    """A message that overtakes another is not heard."""
    # GIVEN
    wire.member.send({"broken": 1})
    wire.member.send({"ready": 2})
    first, second = read_frame(wire.at_member), read_frame(wire.at_member)
    # WHEN
    wire.at_leader.sendall(second + first)
    # THEN
    assert str(refused(wire.leader)) == "a message with a wrong signature"


def test_message_that_is_missing_is_missed(wire: Wire) -> None:
    """Of three messages the second is withheld: the third is not heard."""
    # GIVEN
    for number in range(3):
        wire.member.send({"step": number})
    frames = [read_frame(wire.at_member) for _ in range(3)]
    # WHEN
    wire.at_leader.sendall(frames[0] + frames[2])
    # THEN
    assert wire.leader.receive() == {"step": 0}
    assert str(refused(wire.leader)) == "a message with a wrong signature"


@pytest.mark.parametrize("whose", ["leader", "member"])
def test_own_words_are_not_heard(wire: Wire, whose: str) -> None:
    """A message that is sent back to its sender is no message to it."""
    # GIVEN
    end, network = (wire.leader, wire.at_leader) if whose == "leader" else (wire.member, wire.at_member)
    end.send({"stop": 1})
    # WHEN
    network.sendall(read_frame(network))
    # THEN
    assert str(refused(end)) == "a message with a wrong signature"


def test_two_leaders_do_not_hear_each_other() -> None:
    """Who leads is part of the signature: one who holds the key and takes the wrong part is not heard."""
    # GIVEN
    one, other = connected_pair()
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(Channel, one, key=KEY, leads=True)
        with closing(Channel(other, key=KEY, leads=True)) as second, closing(first.result()):
            # WHEN
            second.send({"over": True})
            # THEN
            assert str(refused(first.result())) == "a message with a wrong signature"


def test_message_too_large_is_refused_before_it_is_read(wire: Wire) -> None:
    """Who only announces gigabytes takes no memory."""
    # WHEN
    wire.at_leader.sendall(struct.pack("!I", 1024**2 + 1))
    # THEN
    assert str(refused(wire.leader)) == "a message of 1048577 bytes"


@pytest.mark.usefixtures("short_silence")
def test_silence_ends_a_channel() -> None:
    """An end that says nothing may be cut off rather than dead."""
    # GIVEN
    with closing(Wire(KEY)) as wire:
        # WHEN
        reason = refused(wire.leader)
        # THEN
        assert reason.silent
        assert wire.at_leader.recv(1) == b""


@pytest.mark.usefixtures("short_silence")
def test_half_a_message_is_silence() -> None:
    """A network that swallows the rest of a message is as silent as one that swallows it whole."""
    # GIVEN
    with closing(Wire(KEY)) as wire:
        wire.member.send({"step": 1})
        # WHEN
        wire.at_leader.sendall(read_frame(wire.at_member)[:-1])
        # THEN
        assert refused(wire.leader).silent


@pytest.mark.usefixtures("short_silence")
def test_end_that_takes_nothing_is_silent() -> None:
    """When what is sent piles up, the thread that receives learns the true reason: silence, and not an end."""
    # GIVEN
    with closing(Wire(KEY)) as wire, ThreadPoolExecutor(2) as threads:
        stop = threading.Event()

        def keep_speaking() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.1):
                    wire.member.send({})
                    wire.carry()

        def pile_up() -> None:
            while True:
                wire.leader.send({"text": "x" * 100_000})

        threads.submit(keep_speaking)
        received = threads.submit(lambda: [wire.leader.receive() for _ in range(1000)])
        # WHEN the network takes nothing from the leader any more
        with pytest.raises(ChannelClosedError) as sent:
            pile_up()
        # THEN
        with pytest.raises(ChannelClosedError) as heard:
            received.result(timeout=SECONDS)
        stop.set()
        assert (sent.value.silent, heard.value.silent) == (True, True)


def test_network_that_is_down_is_silence(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a route nothing is known of the other end: it may train on."""
    # GIVEN
    unreachable = OSError(113, "No route to host")

    def read_nothing(_: Channel, count: int) -> bytes:  # noqa: ARG001 - the signature is the channel's
        raise unreachable

    monkeypatch.setattr(Channel, "_read", read_nothing)
    # WHEN / THEN
    assert refused(wire.leader).silent


@pytest.mark.parametrize("end", ["close", "reset"])
def test_connection_that_ends_is_not_silence(wire: Wire, end: str) -> None:
    """The kernel closes the connections of a process that ended, however it ended."""
    # GIVEN
    if end == "reset":
        wire.at_leader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # WHEN
    wire.at_leader.close()
    # THEN
    assert not refused(wire.leader).silent


def test_own_end_ends_waiting(wire: Wire) -> None:
    """A thread that waits for a message does not wait for ever when its own end is closed."""
    # GIVEN
    with ThreadPoolExecutor(1) as receiver:
        waiting = receiver.submit(refused, wire.leader)
        # WHEN
        wire.leader.close()
        # THEN
        assert isinstance(waiting.result(timeout=SECONDS), ChannelClosedError)


def test_nothing_is_sent_after_the_end(wire: Wire) -> None:
    """A message that cannot be sent is never lost without a word."""
    # GIVEN
    wire.leader.close()
    # WHEN / THEN
    with pytest.raises(ChannelClosedError, match="not sent"):
        wire.leader.send({"over": True})


@pytest.mark.usefixtures("short_silence")
@pytest.mark.parametrize(("answer", "silent"), [(lambda _: None, True), (lambda theirs: theirs.close(), False)])
def test_greeting_must_come(answer: Callable[[socket.socket], None], silent: bool) -> None:
    """An end that does not greet is given up."""
    # GIVEN
    ours, theirs = connected_pair()
    with closing(ours), closing(theirs):
        answer(theirs)
        # WHEN
        with pytest.raises(ChannelClosedError) as reason:
            Channel(ours, key=KEY, leads=False)
        # THEN
        assert reason.value.silent == silent


def test_leader_that_is_not_there() -> None:
    """A port that nobody serves is told with its address."""
    # GIVEN
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        # WHEN / THEN
        with pytest.raises(ChannelClosedError, match=rf"127\.0\.0\.1:{port} does not answer: .*refused") as reason:
            connect("127.0.0.1", port, key=KEY, source="127.0.0.1")
        assert not reason.value.silent
