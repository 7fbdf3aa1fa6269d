"""The errors that stackserve raises. They know nothing of HTTP: `edge/errors.py` translates.

StackserveError
├── ConfigError          a configuration file is wrong
├── NotAuthenticated     nobody known has sent this request
├── ArtifactRejected     a base or adapter cannot be served (code: one of docs/adapters.md)
├── UnknownModel         no group serves a model of that name
├── UnknownDeployment    no deployment of that OCID runs here
├── MemberRefused        the name is known, its adapter was rejected at start
├── RequestRejected      the request itself is wrong (size, JSON, no model, unsupported route)
├── GroupNotReady        the group's engine is starting, restarting or broken
├── ModelUnavailable     a model of a group cannot be brought in now
├── Overloaded           the group's queue is full
├── ShuttingDown         the server drains and takes no new request
├── RolloutFailed        an update of a deployment failed, and what was served before is served on
├── CatalogError         what is asked of models, groups or deployments cannot be done
│   ├── InvalidParameter     a field is missing, wrong or over its limit
│   ├── NotFound             there is no such resource
│   ├── Conflict             it contradicts what there is, and waiting does not help
│   ├── NotNow               it must wait for other work on the resource
│   ├── StaleEtag            the resource has changed since it was read
│   └── RetryTokenReused     the token came with another request before
├── StoreUnavailable     the database cannot do its work now: locked, full, damaged or gone
├── TookTooLong          the request was not answered within its time
└── EngineFailed         the engine broke while it worked on this request
"""

from __future__ import annotations

from collections.abc import Mapping


class StackserveError(Exception):
    """Base of all domain errors.

    `code` is stable and machine-readable (snake_case); `message` is one sentence that says what is
    wrong, where, and what to do about it.
    """

    code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class ConfigError(StackserveError):
    """A configuration file or command-line option is wrong."""

    code = "invalid_config"


class NotAuthenticated(StackserveError):
    """Nobody known has sent this request, or it is not as they sent it."""

    code = "not_authenticated"


class ArtifactRejected(StackserveError):
    """A base or adapter folder cannot be served; `code` says which rule it breaks."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, code=code)


class UnknownModel(StackserveError):
    """No group serves a model of that name."""

    code = "model_not_found"


class UnknownDeployment(StackserveError):
    """No deployment of that OCID runs here."""

    code = "deployment_not_found"


class MemberRefused(StackserveError):
    """The name is a configured member whose adapter was rejected when the group started."""

    code = "model_refused"


class RequestRejected(StackserveError):
    """The request is wrong in a way that the gateway sees before any engine does.

    `param` names the field of the request that is at fault.
    """

    code = "invalid_request"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message, code=code)
        self.param = param


class GroupNotReady(StackserveError):
    """The group's engine is not serving now; `retry_after` is a hint in seconds."""

    code = "group_not_ready"

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelUnavailable(StackserveError):
    """The model's files cannot be loaded, there is no room for it, or it is kept out; `code` says which.

    `retry_after` is a hint in seconds.
    """

    def __init__(self, code: str, message: str, *, retry_after: int = 10) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class Overloaded(StackserveError):
    """The group already works on as many requests as it is allowed to."""

    code = "overloaded"
    retry_after = 1


class ShuttingDown(StackserveError):
    """The server drains: it finishes what runs and takes nothing new."""

    code = "shutting_down"
    retry_after = 30


class EngineFailed(StackserveError):
    """The engine died or broke its connection while it worked on this request."""

    code = "engine_failed"


class RolloutFailed(StackserveError):
    """An update of a deployment failed, and what was served before is served on.

    `failures` are sentences by inference key; an empty key stands for the whole deployment.
    """

    code = "rollout_failed"

    def __init__(self, failures: Mapping[str, str]) -> None:
        shown = [f"{key}: {why}" if key else why for key, why in list(failures.items())[:3]]
        more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
        super().__init__("; ".join(shown) + more)
        self.failures = dict(failures)


class StoreUnavailable(StackserveError):
    """The database cannot do its work now: it is locked, full, damaged or gone."""

    code = "store_unavailable"


class TookTooLong(StackserveError):
    """The request was not answered within its time; its work was stopped."""

    code = "timeout"


class CatalogError(StackserveError):
    """What is asked of models, groups or deployments cannot be done."""


class InvalidParameter(CatalogError):
    """A field is missing, wrong or over its limit; the message names it."""

    code = "invalid_parameter"


class NotFound(CatalogError):
    """There is no such resource."""

    code = "not_found"


class Conflict(CatalogError):
    """It contradicts what there is; waiting does not help."""

    code = "conflict"


class NotNow(CatalogError):
    """Other work on the resource must end first; the same request may succeed later."""

    code = "incorrect_state"


class StaleEtag(CatalogError):
    """The resource has changed since the caller read it."""

    code = "stale_etag"


class RetryTokenReused(CatalogError):
    """A retry token came before, with another request."""

    code = "retry_token_reused"
