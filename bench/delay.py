"""A relay that hands on what a client sends MILLISECONDS later, and answers at once: a store that is further away.

    delay.py PORT HOST:PORT MILLISECONDS

Requests of one connection keep their order; each waits from its own arrival, so requests in flight together wait together.
"""

from __future__ import annotations

import asyncio
import sys


class Upstream(asyncio.Protocol):
    """The store's side: bytes go straight to the client."""

    def __init__(self, client: Downstream) -> None:
        self.client = client

    def data_received(self, data: bytes) -> None:
        if self.client.transport:
            self.client.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.client.transport:
            self.client.transport.close()


class Downstream(asyncio.Protocol):
    """The client's side: bytes wait."""

    def __init__(self, host: str, port: int, delay: float) -> None:
        self.host, self.port, self.delay = host, port, delay
        self.transport: asyncio.Transport | None = None
        self.loop = asyncio.get_running_loop()
        self.upstream: asyncio.Task[asyncio.Transport] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.upstream = self.loop.create_task(self.connect())

    async def connect(self) -> asyncio.Transport:
        transport, _ = await self.loop.create_connection(lambda: Upstream(self), self.host, self.port)
        return transport

    def data_received(self, data: bytes) -> None:
        self.loop.call_later(self.delay, self.hand_on, data)

    def hand_on(self, data: bytes) -> None:
        assert self.upstream is not None
        if self.upstream.done():
            self.upstream.result().write(data)
        else:  # the store answers on loopback in far less than the delay; wait for it all the same
            self.upstream.add_done_callback(lambda task: task.result().write(data))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.upstream is not None and self.upstream.done() and not self.upstream.exception():
            self.upstream.result().close()


async def main() -> None:
    port, target, milliseconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    host, _, there = target.rpartition(":")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Downstream(host, int(there), milliseconds / 1000), "127.0.0.1", port, backlog=512)
    async with server:
        await server.serve_forever()


asyncio.run(main())
