"""What S3 refuses with, as the fixed set of store errors, each a sentence that says what to do. Pure."""

from __future__ import annotations

from forebay.cache.stores.base import BadReply, Changed, Denied, NotFound, StoreError, Unavailable
from forebay.cache.stores.net.retry import Throttled
from forebay.cache.stores.s3.xml import Fault

_DENIED = {
    "NoSuchBucket": "there is no such bucket; correct the bucket's name or the endpoint",
    "InvalidBucketName": "this is no valid bucket name; correct the mount's source",
    "InvalidAccessKeyId": "the store does not know this access key; correct the secret's access_key",
    "XAdminUserNotFound": "the store does not know this access key; correct the secret's access_key",  # versitygw
    "SignatureDoesNotMatch": "the secret key does not fit the access key; correct the secret's secret_key",
    "InvalidSecurity": "the credentials are not valid; correct the secret",
    "InvalidToken": "the session token is not valid; renew the credentials",
    "TokenRefreshRequired": "the session token has to be renewed; renew the credentials",
    "ExpiredToken": "the session token has expired; renew the credentials",
    "AccountProblem": "the account has a problem; ask the store's administrator",
    "AllAccessDisabled": "access to this bucket is switched off; ask the store's administrator",
    "RequestTimeTooSkewed": "this host's clock is more than 15 minutes off the store's; set the clock",
    "InvalidObjectState": "the object is archived; restore it in the store first",
}
_ABSENT = {"NoSuchKey", "NoSuchVersion", "NotFound", ""}
"""Codes of a 404 that say something of the object; any other (an unknown user, a proxy's own) makes no name absent."""
_SLOW = {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "BandwidthLimitExceeded"}
_AGAIN = {"InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "InternalServerError"}


def error_for(status: int, fault: Fault, label: object, *, signed: bool, retry_after: str = "") -> StoreError:
    """The error for a refusal. `label` names bucket and key; `fault` is empty for a HEAD, which has no body."""
    code = fault.code
    said = f" ({code}: {fault.message})" if code and fault.message else f" ({code})" if code else ""
    if code in _DENIED:
        return Denied(f"{label}: {_DENIED[code]}{said}")
    if code in _SLOW or status == 429 or (status == 503 and not code):
        after = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
        return Throttled(
            f"{label}: the store asks for fewer requests{said or f' (status {status})'}; try again later", min(after, 3600.0)
        )
    if code in _AGAIN or status >= 500 or status == 408:
        return Unavailable(f"{label}: the store failed with status {status}{said}; try again")
    if status in {301, 302, 307, 308}:
        place = f"at {fault.endpoint}" if fault.endpoint else "elsewhere"
        return BadReply(f"{label}: the bucket is served {place}{said}; correct the endpoint and the region")
    if code == "PreconditionFailed" or status == 412:
        return Changed(f"{label}: the object has changed since it was listed; list it again")
    if status == 404 and code in _ABSENT:
        return NotFound(f"{label}: there is no such object{said}")
    if status in {401, 403}:
        if signed:
            remedy = "the credentials do not allow this; grant s3:GetObject and s3:ListBucket, or correct the secret"
        else:
            remedy = "the bucket is not public and no credentials were given; add access_key and secret_key as a secret"
        return Denied(f"{label}: {remedy}{said or f' (status {status})'}")
    return BadReply(f"{label}: unexpected status {status}{said}; check that the endpoint speaks S3")
