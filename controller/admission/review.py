"""What an API server asks (`admission.k8s.io/v1` AdmissionReview) and what it is answered, from bytes to bytes. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

API_VERSION = "admission.k8s.io/v1"
WARNING_MAX = 256
"""Characters: the API server drops what is longer from 4096 bytes of all warnings on."""
WARNINGS = 12

Object = dict[str, Any]
Patch = list[Object]
"""RFC 6902."""


class Malformed(ValueError):
    """What came is no AdmissionReview; the sentence says why."""


class Kind(msgspec.Struct, frozen=True):
    group: str = ""
    version: str = ""
    kind: str = ""


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """`namespace` and `name` are the request's: a pod made by a controller has only `generateName`."""

    uid: str
    kind: Kind
    operation: str
    namespace: str = ""
    name: str = ""
    object: Object | None = None
    old_object: Object | None = None
    dry_run: bool = False


class Cause(msgspec.Struct, frozen=True):
    """One thing that is wrong: the field, and the whole sentence."""

    field: str
    message: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """`refused` empty: it is let in, changed by `patch`."""

    refused: tuple[Cause, ...] = ()
    warnings: tuple[str, ...] = ()
    patch: Patch = []


class _Asked(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""
    request: Request | None = None


_DECODER = msgspec.json.Decoder(_Asked)


def read(body: bytes) -> Request:
    """Raises Malformed."""
    try:
        asked = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body is no AdmissionReview: {error}") from None
    if asked.kind != "AdmissionReview" or asked.api_version != API_VERSION:
        raise Malformed(f'the body is "{asked.api_version[:80]} {asked.kind[:80]}"; send {API_VERSION} AdmissionReview')
    if asked.request is None or not asked.request.uid:
        raise Malformed("the review has no request, or one without uid; send what an API server sends")
    return asked.request


def written(request: Request, answer: Answer) -> bytes:
    """The answer to `request`."""
    said: Object = {"uid": request.uid, "allowed": not answer.refused}
    if answer.warnings:
        said["warnings"] = [shortened(text) for text in _few(answer.warnings)]
    if answer.refused:
        said["status"] = _refusal(request, answer.refused)
    elif answer.patch:
        said["patchType"] = "JSONPatch"
        said["patch"] = base64.b64encode(msgspec.json.encode(answer.patch)).decode()
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": said})


def shortened(text: str) -> str:
    return text if len(text) <= WARNING_MAX else f"{text[: WARNING_MAX - 3]}..."


def _few(warnings: Sequence[str]) -> list[str]:
    shown = list(dict.fromkeys(warnings))
    if len(shown) <= WARNINGS:
        return shown
    return [*shown[: WARNINGS - 1], f"and {len(shown) - WARNINGS + 1} more; `forebay check -f FILE` shows all of them"]


def _after(cause: Cause) -> str:
    return cause.message.removeprefix(cause.field).lstrip()


def _refusal(request: Request, causes: Sequence[Cause]) -> Object:
    """As the API server words its own: 422, every cause in the message and by field. kubectl shows `field: message` of each."""
    details: Object = {"group": request.kind.group, "kind": request.kind.kind, "name": request.name}
    details["causes"] = [{"reason": "FieldValueInvalid", "field": c.field, "message": _after(c)} for c in causes]
    message = "; and ".join(c.message for c in causes)
    return {"code": 422, "reason": "Invalid", "status": "Failure", "message": message, "details": details}
