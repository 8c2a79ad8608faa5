"""The control door over real gRPC on the loopback: what is carried out, who is refused, and how an order ends."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import msgspec
import pytest
from peerkit import DATASET, SECRET, key
from servers import free_port

from forebay.cache.peers import control as door
from forebay.cache.peers import controlwire as c
from forebay.cache.peers import wire
from forebay.cache.peers.auth import Key, Signer
from forebay.cache.peers.control import Control
from forebay.cache.peers.control_client import ControlClient
from forebay.cache.stores.base import Unavailable

ME = "11111111-1111-1111-1111-111111111111"


class Scripted:
    """Orders that are noted, and answered as the test says."""

    def __init__(self) -> None:
        self.got: list[object] = []
        self.ended = threading.Event()
        self.error: Exception | None = None
        self.endless = False

    def who(self) -> tuple[str, str]:
        return ME, "node-1"

    def load(self, load: c.Load) -> Iterator[c.Progress]:
        self.got.append(load)
        try:
            yield c.Progress(files=1, files_total=2)
            while self.endless:
                time.sleep(0.02)
                yield c.Progress(files=1, files_total=2)
            if self.error is not None:
                raise self.error
            yield c.Progress(files=2, files_total=2, walked=True, finished=True)
        finally:
            self.ended.set()

    def _changed(self, order: object) -> c.Changed:
        self.got.append(order)
        if self.error is not None:
            raise self.error
        return c.Changed(3, 2, 1)

    def refresh(self, below: c.Below) -> c.Changed:
        return self._changed(("refresh", below.path))

    def pin(self, below: c.Below) -> c.Changed:
        return self._changed(("pin", below.path))

    def unpin(self, below: c.Below) -> c.Changed:
        return self._changed(("unpin", below.path))

    def evict(self, below: c.Below) -> c.Changed:
        return self._changed(("evict", below.path))

    def drain(self, drain: c.Drain) -> Iterator[c.Progress]:
        self.got.append(drain)
        yield c.Progress(finished=True)

    def take(self, take: c.Take) -> Iterator[c.Taken]:
        self.got.append(take)
        yield c.Taken([0], {1: "full"})

    def leave(self, leave: c.Leave) -> c.Changed:
        return self._changed(leave)

    def stats(self) -> dict[str, object]:
        return {"cluster": {"me": ME}, "n": 1.5}


def eventually(condition: Callable[[], object], within: float = 60.0) -> None:
    until = time.monotonic() + within
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


@pytest.fixture
def orders() -> Scripted:
    return Scripted()


@pytest.fixture
def control(orders: Scripted) -> Iterator[Control]:
    served = Control(orders, key(), ME, "127.0.0.1", 0)
    served.start()
    yield served
    served.close()


@pytest.fixture
def client() -> Iterator[ControlClient]:
    made = ControlClient(key())
    yield made
    made.close()


def test_every_order_arrives_and_is_answered(control: Control, client: ControlClient, orders: Scripted) -> None:
    at = control.address
    who = client.hello(at)
    assert (who.id, who.node) == (ME, "node-1")
    assert [p.files for p in client.load(at, [b"/a", b"/b*"], replicas=2)] == [1, 2]
    assert client.pin(at, b"/p") == client.unpin(at, b"/p") == client.evict(at, b"/p") == c.Changed(3, 2, 1)
    assert next(client.drain(at, force=True)).finished
    part = c.Part(wire.Ref("s3://b", b"k", b"v", 10), 0, 10)
    assert list(client.take(at, [part, part])) == [c.Taken([0], {1: "full"})]
    assert client.leave(at, "x") == c.Changed(3, 2, 1)
    assert client.stats(at) == {"cluster": {"me": ME}, "n": 1.5}
    assert orders.got == [
        c.Load([b"/a", b"/b*"], replicas=2), ("pin", b"/p"), ("unpin", b"/p"), ("evict", b"/p"), c.Drain(True),
        c.Take([part, part]), c.Leave("x"),
    ]  # fmt: skip
    assert not control.refused


@pytest.mark.parametrize(
    ("other", "says"),
    [(Key(b"y" * 32, DATASET), "same secret"), (Key(SECRET, "default/other"), "same dataset")],
    ids=["secret", "dataset"],
)
def test_another_key_gets_nothing(control: Control, orders: Scripted, other: Key, says: str) -> None:
    stranger = ControlClient(other)
    try:
        with pytest.raises(c.ControlError, match=says) as e:
            stranger.leave(control.address, ME)
    finally:
        stranger.close()
    assert e.value.name == "Unauthorised"
    assert not orders.got
    assert control.refused == {"Unauthorised": 1}


def test_a_clock_that_is_off_is_refused_by_name(orders: Scripted) -> None:
    now = time.time()
    served, late = Control(orders, key(), ME, "127.0.0.1", 0, clock=lambda: now), ControlClient(key(), clock=lambda: now - 60)
    served.start()
    try:
        with pytest.raises(c.ControlError, match=r"60 s behind.*NTP"):
            late.hello(served.address)
    finally:
        late.close()
        served.close()


class Raw:
    """Calls with whatever metadata and messages a test makes up."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self.signer = Signer(key(), time.time)

    def call(self, method: str, message: bytes, metadata: tuple[tuple[str, str], ...], timeout: float = 60) -> list[bytes]:
        return list(self.channel.unary_stream(c.path_of(method))(message, metadata=metadata, timeout=timeout))

    def signed(self, method: str, to: str, message: bytes) -> tuple[tuple[str, str], ...]:
        return (c.AUTH, self.signer.header(c.signed(method, to, message))[0]), (c.TO, to)


@pytest.fixture
def raw(control: Control) -> Iterator[Raw]:
    made = Raw(control.address)
    yield made
    made.channel.close()


def refused(raw: Raw, method: str, message: bytes, metadata: tuple[tuple[str, str], ...]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as e:
        raw.call(method, message, metadata)
    code: grpc.StatusCode = e.value.code()
    return code


def failure(raw: Raw, method: str, message: bytes, to: str) -> wire.Failed:
    frames = [msgspec.msgpack.decode(f, type=c.Frame) for f in raw.call(method, message, raw.signed(method, to, message))]
    assert [f.kind for f in frames] == [c.FAILED]
    return wire.decode_failed(frames[0].body)


def test_without_a_signature_nothing_is_read(control: Control, orders: Scripted, raw: Raw) -> None:
    for metadata in ((), ((c.AUTH, "FB1 nonsense"),), ((c.TO, control.who.address),)):
        for method in c.METHODS:
            assert refused(raw, method, b"", metadata) is grpc.StatusCode.UNAUTHENTICATED
    assert not orders.got
    assert control.refused["Unauthorised"] == 3 * len(c.METHODS)


def test_a_request_seen_before_is_refused(control: Control, orders: Scripted, raw: Raw) -> None:
    message = msgspec.msgpack.encode(c.Leave("x"))
    metadata = raw.signed("leave", control.who.address, message)
    assert len(raw.call("leave", message, metadata)) == 2
    assert refused(raw, "leave", message, metadata) is grpc.StatusCode.UNAUTHENTICATED
    assert orders.got == [c.Leave("x")]


def test_a_recorded_order_is_no_other_order_and_of_no_other_message(control: Control, orders: Scripted, raw: Raw) -> None:
    message = msgspec.msgpack.encode(c.Below(b"/a"))
    to = control.who.address
    assert refused(raw, "evict", message, raw.signed("pin", to, message)) is grpc.StatusCode.UNAUTHENTICATED
    metadata = raw.signed("pin", to, message)
    other = msgspec.msgpack.encode(c.Below(b"/"))
    frames = [msgspec.msgpack.decode(f, type=c.Frame) for f in raw.call("pin", other, metadata)]
    assert "not the one that was signed" in wire.decode_failed(frames[0].body).message
    assert not orders.got


def test_an_order_to_another_start_of_the_door_is_refused(orders: Scripted, raw: Raw, control: Control) -> None:
    message = msgspec.msgpack.encode(c.Leave("x"))
    for to in ("", ME, f"{ME}/0123456789abcdef", control.who.start):
        assert refused(raw, "leave", message, raw.signed("leave", to, message)) is grpc.StatusCode.FAILED_PRECONDITION
    assert not orders.got
    assert control.refused == {"Misdirected": 4}


def test_oversized_messages_and_heads(control: Control, orders: Scripted, raw: Raw, client: ControlClient) -> None:
    big = bytes(c.MESSAGE_MOST + 1)
    assert refused(raw, "load", big, raw.signed("load", control.who.address, big)) in {
        grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED,
    }  # fmt: skip
    assert refused(raw, "hello", b"", (*raw.signed("hello", "", b""), ("x-much", "m" * 40_000))) in {
        grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL,
    }  # fmt: skip
    with pytest.raises(c.ControlError, match="split it"):
        list(client.load(control.address, [b"/" + bytes([97]) * 8000] * 200))
    assert not orders.got
    assert client.hello(control.address).id == ME


@pytest.mark.parametrize(
    ("method", "order", "says"),
    [
        ("load", c.Load([b"/a/../b"]), "NUL nor"),
        ("load", c.Load([b"/a\0"]), "NUL nor"),
        ("load", c.Load([b"a"]), "slash"),
        ("load", c.Load([]), "0 paths"),
        ("load", c.Load([b"/a"], replicas=2, nodes=["b"]), "not both"),
        ("load", c.Load([b"/a"], replicas=-1), "no cluster"),
        ("pin", c.Below(b"/.."), "slash"),
        ("evict", c.Below(b"/a\0b"), "NUL"),
        ("take", c.Take([]), "0 parts"),
        ("take", c.Take([c.Part(wire.Ref("s", b"a/../b", b"", 1), 0, 1)]), "can have the key"),
        ("take", c.Take([c.Part(wire.Ref("s", b"a", b"", 9), 1, 9)]), "whole blocks"),
        ("take", c.Take([c.Part(wire.Ref("s", b"a", b"", 9), 0, 10)]), "whole blocks"),
        ("leave", 7, "no Leave"),
    ],
)
def test_orders_that_make_no_sense(control: Control, orders: Scripted, raw: Raw, method: str, order: object, says: str) -> None:
    got = failure(raw, method, msgspec.msgpack.encode(order), control.who.address)
    assert got.name in {"Malformed", "TooLarge"}
    assert says in got.message
    assert not orders.got
    assert control.refused[got.name] == 1


def test_who_signs_and_sends_nothing_is_cut_off_and_others_go_on(
    control: Control, orders: Scripted, raw: Raw, client: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(100)
        return
        yield b""

    def silent() -> list[grpc.Call]:
        call, to = raw.channel.stream_stream(c.path_of("leave")), control.who.address
        return [call(nothing(), metadata=raw.signed("leave", to, b"x"), timeout=60) for _ in range(4)]

    patient = 61.0
    monkeypatch.setattr(door, "MESSAGE_IN", patient)
    held = silent()
    eventually(lambda: sum(getattr(t, "interval", 0) == patient for t in threading.enumerate()) == 4)  # all of them wait
    assert client.hello(control.address).id == ME
    monkeypatch.setattr(door, "MESSAGE_IN", 0.5)
    for call in silent():
        with pytest.raises(grpc.RpcError) as e:
            list(call)
        assert e.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: control.refused["TooSlow"] == 4)
    never.set()
    for call in held:
        call.cancel()
    assert not orders.got


def test_bytes_that_are_no_http2_do_not_disturb_others(control: Control, client: ControlClient) -> None:
    host, _, port = control.address.rpartition(":")
    with socket.create_connection((host, int(port))) as rude:
        with contextlib.suppress(OSError):  # the door may hang up before it has all of it
            rude.sendall(b"GET /v1/hello HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(70_000))
        assert client.hello(control.address).id == ME


def test_an_order_ends_when_its_asker_leaves(control: Control, orders: Scripted, client: ControlClient) -> None:
    orders.endless = True
    stream = client.load(control.address, [b"/"])
    assert next(stream).files == 1
    assert not orders.ended.is_set()
    stream.close()
    assert orders.ended.wait(60)
    eventually(lambda: control._long._value == door.LONG)  # its place is free again


def test_an_order_ends_when_the_process_of_its_asker_dies(control: Control, orders: Scripted) -> None:
    orders.endless = True
    gone = ControlClient(key())
    assert next(gone.load(control.address, [b"/"])).files == 1
    gone.close()
    assert orders.ended.wait(60)


def test_long_orders_leave_room_for_short_ones(control: Control, orders: Scripted, client: ControlClient) -> None:
    orders.endless = True
    streams = [client.load(control.address, [b"/"]) for _ in range(door.LONG)]
    for stream in streams:
        next(stream)
    with pytest.raises(c.ControlError, match="try again") as e:
        next(client.load(control.address, [b"/"]))
    assert e.value.name == "Busy"
    assert client.leave(control.address, "x").files == 3
    for stream in streams:
        stream.close()
    eventually(lambda: control._long._value == door.LONG)


@pytest.mark.parametrize(
    ("error", "name", "says"),
    [
        (Unavailable("the store is away"), "Unavailable", "the store is away"),
        (c.ControlError("no node is called x", "Absent"), "Absent", "no node is called x"),
        (RuntimeError("a defect"), "Internal", "a defect"),
    ],
)
def test_why_an_order_failed_is_told(
    control: Control, orders: Scripted, client: ControlClient, error: Exception, name: str, says: str
) -> None:
    orders.error = error
    stream = client.load(control.address, [b"/"])
    assert next(stream).files == 1
    with pytest.raises(c.ControlError, match=says) as e:
        next(stream)
    assert e.value.name == name
    assert control.refused == {name: 1}


def test_nobody_there_is_said_with_the_remedy(client: ControlClient) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(c.ControlError, match="is its worker up"):
            client.hello(f"127.0.0.1:{held.getsockname()[1]}")


def test_an_answer_of_somebody_without_the_secret_is_not_believed(orders: Scripted, client: ControlClient) -> None:
    class Credulous(Control):
        """A door with another secret that lets everybody in."""

        def serve(self, method: str, messages: Iterator[bytes], context: object) -> Iterator[bytes]:
            next(messages)
            yield c.seal(self.key, "0" * 64, 0, c.ANSWER, msgspec.msgpack.encode(self.who))
            yield c.seal(self.key, "0" * 64, 1, c.END, b"")

    served = Credulous(orders, Key(b"z" * 32, DATASET), ME, "127.0.0.1", 0)
    served.start()
    try:
        with pytest.raises(c.ControlError, match="does not prove"):
            client.hello(served.address)
    finally:
        served.close()


def test_an_answer_that_ends_early_is_none(orders: Scripted, client: ControlClient, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Control(orders, key(), ME, "127.0.0.1", 0)
    whole = Control.serve
    monkeypatch.setattr(Control, "serve", lambda *a: iter(list(whole(*a))[:-1]))
    served.start()
    try:
        with pytest.raises(c.ControlError, match="broke off"):
            client.hello(served.address)
    finally:
        served.close()


def test_an_address_in_use_is_an_error_with_the_remedy(control: Control, orders: Scripted) -> None:
    host, _, port = control.address.rpartition(":")
    second = Control(orders, key(), ME, host, int(port))
    with pytest.raises(OSError, match="--control-listen"):
        second.start()
    second.close()


def test_a_closed_door_ends_what_it_works_on(orders: Scripted, client: ControlClient) -> None:
    served = Control(orders, key(), ME, "127.0.0.1", 0)
    served.start()
    orders.endless = True
    stream = client.load(served.address, [b"/"])
    next(stream)
    began = time.monotonic()
    served.close(0.2)
    with pytest.raises(c.ControlError):
        list(stream)
    assert orders.ended.wait(60)
    assert time.monotonic() - began < 60


def test_a_node_that_comes_back_is_found_again_and_one_that_is_silent_costs_seconds(
    orders: Scripted, client: ControlClient
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        began = time.monotonic()
        with pytest.raises(c.ControlError):
            client.hello(f"127.0.0.1:{silent.getsockname()[1]}", timeout=1.0)
        assert time.monotonic() - began < 30
    first = Control(orders, key(), ME, "127.0.0.1", free_port())  # it stays free while nobody listens
    first.start()
    host, _, port = first.address.rpartition(":")
    assert client.stats(first.address)["n"] == 1.5
    first.close(30.0)  # nothing runs: it ends at once, and its address is free then
    with pytest.raises(c.ControlError):
        client.stats(first.address)
    second = Control(orders, key(), ME, host, int(port))
    second.start()
    try:

        def back() -> bool:
            try:
                return bool(client.stats(second.address)["n"] == 1.5)
            except c.ControlError:
                return False

        eventually(back)
    finally:
        second.close()
