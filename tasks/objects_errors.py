"""What an S3 client's exceptions mean to the person on call; their own text may hold keys and is not repeated."""

from __future__ import annotations

from botocore.exceptions import (
    ClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from urllib3.exceptions import HTTPError

from recoup.errors import DamagedError, PreconditionError, RecoupError, RecoveryError

_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed", "InvalidToken"}
_DIGEST = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
_ABSENT = {"NoSuchKey", "NoSuchVersion", "404", "NotFound"}


def not_found(error: Exception) -> bool:
    """Say whether an exception means that there is no such object."""
    return isinstance(error, ClientError) and error.response["Error"]["Code"] in _ABSENT


def worth_another(error: Exception) -> bool:
    """Say whether the same request may well succeed now: the client itself has not repeated these."""
    if isinstance(error, ClientError):
        return error.response["Error"]["Code"] in _DIGEST
    return isinstance(error, IncompleteReadError | ResponseStreamingError | HTTPError)


def explain(error: Exception, what: str, bucket: str) -> RecoupError:
    """Give the error of ours that says what to do about a client's exception."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return PreconditionError(
            f"{what}: there are no credentials",
            next_step="name access_key and secret_key in the plan's copy, or give this machine a role",
        )
    if isinstance(error, ParamValidationError):
        return PreconditionError(f"{what}: the request is not a valid one", next_step="see the copy in the plan")
    if not isinstance(error, ClientError):
        return RecoveryError(
            f"{what}: {_way(error)}",
            state="no set appeared there; the local sets are untouched",
            next_step="see to the server and the way to it; the next run continues where this one ended",
        )
    code = str(error.response["Error"].get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket" or (status == 404 and error.operation_name == "HeadBucket"):
        return PreconditionError(
            f"{what}: there is no bucket {bucket}", next_step="make the bucket, or correct its name in the plan"
        )
    if code in _CREDENTIALS or (status == 403 and error.operation_name == "HeadBucket"):
        return PreconditionError(
            f"{what}: the server does not accept the credentials ({code})",
            next_step="see what the plan's access_key and secret_key point to, and what they may do in the bucket",
        )
    if code in _DIGEST:
        return DamagedError(
            f"{what}: something else arrived than was sent ({code})",
            state="no set appeared there",
            next_step="run: recoup backup copy; if it happens again, mistrust the way there",
        )
    if status == 403:
        return RecoveryError(
            f"{what}: the server forbids it ({code}); what is under a lock is let go by nobody before its end",
            state="what is there stays",
            next_step="see the rights of the access key, and the lock of what is there",
        )
    if 400 <= status < 500 and code not in {"RequestTimeout", "SlowDown"}:
        return PreconditionError(
            f"{what}: the server refuses it as asked ({code})",
            next_step="see the copy's kms_key, lock and region in the plan against the bucket's own settings",
        )
    return RecoveryError(
        f"{what}: the server failed with {code or status}, asked several times",
        state="no set appeared there; the local sets are untouched",
        next_step="wait until the server is well; the next run continues where this one ended",
    )


def _way(error: Exception) -> str:
    name = type(error).__name__
    if "Timeout" in name:
        return "it did not answer in time"
    if name in {"EndpointConnectionError", "ConnectionError", "NewConnectionError"}:
        return "nothing answers there"
    if "SSL" in name:
        return "its certificate is not accepted"
    return f"the connection broke off ({name})"
