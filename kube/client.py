"""Single calls: get, list, create, apply, patch, replace, delete. Retries what may be repeated; every refusal is a typed error.

Bodies are anything msgspec encodes (dicts, structs) or JSON bytes. What comes back is decoded into the struct asked for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from forebay.kube import retry
from forebay.kube.decoding import Decoder
from forebay.kube.errors import ApiError, Gone, NotFound, Unreachable, Unusable, error_of, status_of
from forebay.kube.objects import Bare, Key, Named
from forebay.kube.pacing import RetryBudget
from forebay.kube.resources import Resource
from forebay.kube.store import Broken
from forebay.kube.transport import Answer, Query, Transport

T = TypeVar("T")
N = TypeVar("N", bound=Named)

DEADLINE = 30.0
"""Seconds of one call with all its tries."""
PAGE = 500

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
JSON = "application/json"

Body = bytes | msgspec.Struct | Mapping[str, Any]
Propagation = Literal["Background", "Foreground", "Orphan"]


class Statistics(NamedTuple):
    """`writes`: tries of anything but GET; `retries`: tries beyond the first; `refused`: answers of 400 and above."""

    reads: int
    writes: int
    retries: int
    refused: int


class _Request(NamedTuple):
    verb: str
    path: str
    query: Query
    body: bytes | None
    content: str
    repeatable: bool
    busy_is_final: bool = False


class _Failed(NamedTuple):
    """`error` is raised when there is no further try."""

    error: ApiError | Unreachable
    tried: retry.Tried


class Client:
    """Calls as one field manager, from any thread.

    `gate` is called before each try that writes: a leader's check that it still leads (it raises; the call is not made).
    """

    def __init__(
        self,
        transport: Transport,
        manager: str = "forebay",
        *,
        gate: Callable[[], None] | None = None,
        random: Random | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        self.transport, self.manager = transport, manager
        self._gate = gate
        self._random = random or Random()
        self._deadline = deadline
        self._budget = RetryBudget()
        self._lock = threading.Lock()
        self._reads = self._writes = self._retries = self._refused = 0

    def statistics(self) -> Statistics:
        with self._lock:
            return Statistics(self._reads, self._writes, self._retries, self._refused)

    # --- reading ---

    def get(self, resource: Resource, key: Key, type_: type[T], sub: str = "") -> T:
        """Raises NotFound."""
        request = _Request("GET", resource.at(key, sub), (), None, "", repeatable=True)
        return self._read(request, type_)

    def list_all(
        self, resource: Resource, type_: type[N], namespace: str = "", *, labels: str = "", fields: str = "", page: int = PAGE
    ) -> tuple[list[N], str]:
        """All objects and the list's version, in pages; begun once more, in one piece, when a continue token expires.

        For a single look. What is looked at again and again is an Informer's. Raises Unusable for an object that does not fit.
        """
        selectors = [(name, value) for name, value in (("labelSelector", labels), ("fieldSelector", fields)) if value]
        try:
            return self._pages(resource.path(namespace), type_, [*selectors, ("limit", str(page))])
        except Gone:
            return self._pages(resource.path(namespace), type_, selectors)

    def _pages(self, path: str, type_: type[N], query: Sequence[tuple[str, str]]) -> tuple[list[N], str]:
        decoder, out, token = Decoder(type_), list[N](), ""
        while True:
            more = [("continue", token)] if token else []
            listed = decoder.page(self._call(_Request("GET", path, [*query, *more], None, "", repeatable=True)).body)
            for key, _, thing in listed.items:
                if isinstance(thing, Broken):
                    raise Unusable(f"GET {path}: {key}: {thing.why}; correct the object")
                out.append(thing)
            if not listed.more:
                return out, listed.version
            if listed.more == token:
                raise Unusable(f"GET {path}: the list's continue token does not move; look at what stands before the API server")
            token = listed.more

    # --- writing ---

    def apply(
        self,
        resource: Resource,
        key: Key,
        body: Body,
        *,
        force: bool = True,
        sub: str = "",
        manager: str = "",
        dry_run: bool = False,
    ) -> Bare:
        """Server-side apply: creates the object or makes our fields what `body` says; fields left out since the last apply go.

        `body` holds apiVersion, kind, metadata.name and only the fields we own. `force`: take fields over from other managers;
        without it FieldConflict names them. Unknown fields are Invalid. `sub` "status" applies the status of what exists.
        """
        query = [
            ("fieldManager", manager or self.manager),
            ("force", "true" if force else "false"),
            ("fieldValidation", "Strict"),
            *_dry(dry_run),
        ]
        return self._write(_Request("PATCH", resource.at(key, sub), query, _encode(body), APPLY, repeatable=True))

    def apply_status(self, resource: Resource, key: Key, body: Body, *, force: bool = True, manager: str = "") -> Bare:
        """`apply` to the status subresource. A CR's status carries all that its schema requires."""
        return self.apply(resource, key, body, force=force, sub="status", manager=manager)

    def create(self, resource: Resource, namespace: str, body: Body, *, dry_run: bool = False) -> Bare:
        """Raises AlreadyExists. After an Unreachable that was `sent` the object may exist."""
        query = [("fieldManager", self.manager), ("fieldValidation", "Strict"), *_dry(dry_run)]
        return self._write(_Request("POST", resource.path(namespace), query, _encode(body), JSON, repeatable=False))

    def create_sub(self, resource: Resource, key: Key, sub: str, body: Body, *, dry_run: bool = False) -> None:
        """POST to a subresource: `binding`, `eviction`, `token`. A 429 is the caller's: of an eviction it is the answer."""
        query = [("fieldManager", self.manager), *_dry(dry_run)]
        path = resource.at(key, sub)
        self._call(_Request("POST", path, query, _encode(body), JSON, repeatable=False, busy_is_final=True))

    def replace(self, resource: Resource, key: Key, body: Body, *, sub: str = "") -> Bare:
        """PUT. `body` carries metadata.resourceVersion: raises Conflict when the object was written meanwhile."""
        query = [("fieldManager", self.manager)]
        return self._write(_Request("PUT", resource.at(key, sub), query, _encode(body), JSON, repeatable=False))

    def merge(self, resource: Resource, key: Key, body: Body, *, sub: str = "", dry_run: bool = False) -> Bare:
        """JSON merge patch. With metadata.resourceVersion in `body` it raises Conflict like `replace`."""
        query = [("fieldManager", self.manager), *_dry(dry_run)]
        return self._write(_Request("PATCH", resource.at(key, sub), query, _encode(body), MERGE, repeatable=True))

    def strategic(self, resource: Resource, key: Key, body: Body, *, sub: str = "") -> Bare:
        """Strategic merge patch, for the API's own kinds alone: lists such as conditions are merged by their keys.

        With metadata.uid in `body` it raises Conflict where the name now belongs to another object.
        """
        query = [("fieldManager", self.manager)]
        return self._write(_Request("PATCH", resource.at(key, sub), query, _encode(body), STRATEGIC, repeatable=True))

    def json_patch(self, resource: Resource, key: Key, operations: Sequence[Mapping[str, Any]], *, sub: str = "") -> Bare:
        """RFC 6902. Never tried twice when the first may have been carried out: `add` to a list would add twice."""
        query, body = [("fieldManager", self.manager)], msgspec.json.encode(operations)
        return self._write(_Request("PATCH", resource.at(key, sub), query, body, JSON_PATCH, repeatable=False))

    def delete(
        self,
        resource: Resource,
        key: Key,
        *,
        uid: str = "",
        version: str = "",
        propagation: Propagation = "Background",
        grace: int = -1,
    ) -> bool:
        """Asks for deletion; finalizers may keep the object for a while. False when it does not exist.

        `uid`, `version`: preconditions, Conflict when they do not hold (the name now belongs to another object). `grace`:
        seconds, -1 for the object's own.
        """
        conditions = {name: value for name, value in (("uid", uid), ("resourceVersion", version)) if value}
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if conditions:
            body["preconditions"] = conditions
        if grace >= 0:
            body["gracePeriodSeconds"] = grace
        # without a uid a repetition could hit a successor of the same name
        request = _Request("DELETE", resource.at(key), (), _encode(body), JSON, repeatable=bool(uid))
        try:
            self._call(request)
        except NotFound:
            return False
        return True

    # --- one call ---

    def _write(self, request: _Request) -> Bare:
        return self._read(request, Bare)

    def _read(self, request: _Request, type_: type[T]) -> T:
        answer = self._call(request)
        try:
            return msgspec.json.decode(answer.body, type=type_)  # the type's plan is cached by msgspec
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unusable(f"{request.verb} {request.path}: the object does not fit: {error}; correct the object") from None

    def _call(self, request: _Request) -> Answer:
        end = time.monotonic() + self._deadline
        tries = 0
        while True:
            tries += 1
            self._count(request, tries)
            outcome = self._try(request, tries, end)
            if isinstance(outcome, Answer):
                return outcome
            with self._lock:
                wait = retry.pause(outcome.tried, end - time.monotonic(), self._random)
                if wait is None or not self._budget.take():
                    raise outcome.error
            time.sleep(wait)

    def _try(self, request: _Request, tries: int, end: float) -> Answer | _Failed:
        if request.verb != "GET" and self._gate is not None:
            self._gate()
        tried = retry.Tried(tries, 0, None, True, request.repeatable, request.busy_is_final)
        left = max(0.001, end - time.monotonic())
        try:
            answer = self.transport.request(
                request.verb, request.path, request.query, body=request.body, content=request.content, deadline=left
            )
        except Unreachable as error:
            return _Failed(error, tried._replace(sent=error.sent))
        if answer.code < 400:
            return answer
        status = status_of(answer.code, answer.body)
        after = answer.retry_after
        if after is None and status.details and status.details.retry_after_seconds:
            after = float(status.details.retry_after_seconds)
        with self._lock:
            self._refused += 1
        refusal = error_of(f"{request.verb} {request.path}", status, after)
        return _Failed(refusal, tried._replace(code=answer.code, retry_after=after))

    def _count(self, request: _Request, tries: int) -> None:
        with self._lock:
            if tries == 1:
                self._budget.called()
            else:
                self._retries += 1
            if request.verb == "GET":
                self._reads += 1
            else:
                self._writes += 1


def _encode(body: Body) -> bytes:
    return body if isinstance(body, bytes) else msgspec.json.encode(body)


def _dry(dry_run: bool) -> list[tuple[str, str]]:
    return [("dryRun", "All")] if dry_run else []
