"""What an API server's refusal means to a caller: one class for each case that is handled differently, one sentence each."""

from __future__ import annotations

import msgspec


class Cause(msgspec.Struct, frozen=True):
    """One entry of `Status.details.causes`."""

    reason: str = ""
    message: str = ""
    field: str = ""


class Details(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    kind: str = ""
    causes: list[Cause] | None = None
    retry_after_seconds: int = 0


class Status(msgspec.Struct, frozen=True):
    """`meta/v1.Status`: the body of every refusal, and the object of a watch's ERROR line."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: Details | None = None


_STATUS = msgspec.json.Decoder(Status)

REMEDIES = {
    400: "this is a defect of the caller: the request is not one that the server takes",
    401: "check the credentials of the kubeconfig, or that the service account's token is mounted and not expired",
    403: "grant the verb on this resource to the account in a Role or ClusterRole",
    404: "create it, or install the CRD that serves this kind",
    405: "the server does not offer this verb here; check the kind's version and its subresources",
    409: "somebody else was first: read it again and decide anew",
    410: "list again: the version or the token is older than what the server keeps",
    413: "make the object smaller: etcd takes 1.5 MiB",
    415: "this is a defect of the caller: the patch type is not one that this kind takes",
    422: "correct the field named above",
    429: "the server is busy; the call can be made again later",
}


class ApiError(Exception):
    """The server answered with `code` (400 or more). `where` is `VERB path`; `status` is what the body said."""

    def __init__(self, where: str, status: Status, retry_after: float | None = None) -> None:
        self.where = where
        self.status = status
        self.code = status.code
        self.retry_after = retry_after
        super().__init__(self._sentence())

    @property
    def causes(self) -> list[Cause]:
        return (self.status.details.causes or []) if self.status.details else []

    def _sentence(self) -> str:
        said = self.status.message or self.status.reason or "no reason given"
        remedy = REMEDIES.get(self.code, "the server failed; the call can be made again later" if self.code >= 500 else "")
        return f"{self.where}: {self.code}: {said}" + (f"; {remedy}" if remedy else "")


class NotFound(ApiError):
    """404: the object, or the kind itself."""


class Conflict(ApiError):
    """409: written by somebody else meanwhile, or a precondition does not hold. Read the cache again; never retry blindly."""


class AlreadyExists(Conflict):
    """409 on a create."""


class FieldConflict(Conflict):
    """409 on an apply without force: other managers own fields that the apply would change."""

    def _sentence(self) -> str:
        owned = "; ".join(f"{c.field or '.'}: {c.message}" for c in self.causes if c.reason == "FieldManagerConflict")
        return (
            f"{self.where}: another manager owns what this apply would change: {owned or self.status.message}; "
            "stop the other manager from setting it, leave it out of the apply, or apply with force to take it over"
        )


class Gone(ApiError):
    """410: the resourceVersion or the continue token has expired."""


class Invalid(ApiError):
    """422, or 400 of strict field validation: the object breaks its schema or a rule."""


class Forbidden(ApiError):
    """403, of RBAC or of an admission plugin. `ending`: nothing new is made in a namespace that is being deleted."""

    @property
    def ending(self) -> bool:
        return any(cause.reason == "NamespaceTerminating" for cause in self.causes)

    def _sentence(self) -> str:
        return f"{self.where}: {self.code}: {self.status.message}" if self.ending else super()._sentence()


class Unauthorized(ApiError):
    """401."""


class TooMany(ApiError):
    """429: priority and fairness, or an eviction that a disruption budget holds back."""


class ServerError(ApiError):
    """5xx."""


class Unreachable(Exception):
    """No whole answer came. `sent`: the server may have carried the request out (its answer, or the rest of it, was lost)."""

    def __init__(self, where: str, why: str, *, sent: bool) -> None:
        self.where = where
        self.sent = sent
        outcome = "the request may have been carried out" if sent else "the request was not carried out"
        super().__init__(f"{where}: no answer: {why}; {outcome}; check the API server's address and that it runs")


class Unusable(Exception):
    """The server answered, and the answer is none: not JSON, too big, or not the shape that the protocol names."""


_BY_CODE: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooMany,
}


def status_of(code: int, body: bytes) -> Status:
    """The `Status` in a refusal's body. A body that is none (a proxy's page, plain text) becomes the message, shortened."""
    try:
        status = _STATUS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = " ".join(body[:300].decode("utf-8", "replace").split())
        return Status(code=code, message=text)
    return status if status.code == code else msgspec.structs.replace(status, code=code)


def error_of(where: str, status: Status, retry_after: float | None = None) -> ApiError:
    """The exception for a refusal."""
    if status.code == 409 and status.reason == "AlreadyExists":
        kind: type[ApiError] = AlreadyExists
    elif status.code == 409 and status.details and any(c.reason == "FieldManagerConflict" for c in status.details.causes or []):
        kind = FieldConflict
    elif status.code in _BY_CODE:
        kind = _BY_CODE[status.code]
    else:
        kind = ServerError if status.code >= 500 else ApiError
    return kind(where, status, retry_after)
