"""Who serves a dataset, by the EndpointSlices of its Service. Pure: slices in, lines of the member list out.

A worker becomes a member when it is ready for the first time and stays one while a slice lists it, ready or not, until it
is terminating: a probe that fails for a moment moves no bytes. Health is the readers' own matter (`forebay.cache.members.route`).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from forebay.cache.members.roster import MOST_MEMBERS, Listed, join_address
from forebay.kube.objects import ObjectMeta

DATA, CONTROL = "data", "control"
"""Names of a worker's ports."""


class Conditions(msgspec.Struct, frozen=True):
    ready: bool | None = None  # None counts as true, as the API has it
    terminating: bool | None = None


class Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    addresses: list[str] = []
    conditions: Conditions = Conditions()
    node_name: str | None = None


class Port(msgspec.Struct, frozen=True):
    name: str | None = None
    port: int | None = None


class Slice(msgspec.Struct, frozen=True):
    """`discovery.k8s.io/v1.EndpointSlice`."""

    metadata: ObjectMeta
    endpoints: list[Endpoint] | None = None
    ports: list[Port] | None = None


class Members:
    """The members of one dataset. `known` holds addresses of data ports that were ready once."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.known = set(known)

    def listed(self, slices: Iterable[Slice]) -> list[Listed]:
        """Members by the slices as they stand now, in order of their addresses."""
        found: dict[str, Listed] = {}
        still: set[str] = set()
        for piece in slices:
            ports = {p.name: p.port for p in piece.ports or () if p.port}
            if DATA not in ports:
                continue
            for endpoint in piece.endpoints or ():
                if not endpoint.addresses or endpoint.conditions.terminating:
                    continue
                host = endpoint.addresses[0]  # consumers use the first; the others are the same pod's
                data = join_address(host, ports[DATA] or 0)
                if endpoint.conditions.ready is False and data not in self.known:
                    continue
                still.add(data)
                control = ports.get(CONTROL)
                found[data] = Listed(data, control=join_address(host, control) if control else "", node=endpoint.node_name or "")
        self.known = still
        return [found[data] for data in sorted(found)][:MOST_MEMBERS]


def encode(members: list[Listed]) -> bytes:
    """The member list as a file; JSON, which is YAML."""
    return msgspec.json.format(msgspec.json.encode(members), indent=1) + b"\n"
