"""Retry tokens: a create that is sent twice is done once, and answered the same both times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Session

from stackserve.catalog.resources import now
from stackserve.errors import RetryTokenReused
from stackserve.store.tables import RetryToken

LIFETIME = timedelta(hours=24)


@dataclass(frozen=True)
class Answer:
    """What a client is told; kept with its token. `body` is JSON."""

    status: int
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


def once(session: Session, token: str, body_sha256: str, work: Callable[[], Answer]) -> Answer:
    """Do the work unless a request with this token was answered before. Raises RetryTokenReused when
    that had another body. The answer is kept in the transaction of the work itself.
    """
    session.execute(delete(RetryToken).where(RetryToken.time_created < now() - LIFETIME))
    before = session.get(RetryToken, token)
    if before is None:
        answer = work()
        session.add(
            RetryToken(
                token=token,
                body_sha256=body_sha256,
                status=answer.status,
                headers=answer.headers,
                body=answer.body,
                time_created=now(),
            )
        )
        return answer
    if before.body_sha256 != body_sha256:
        raise RetryTokenReused(
            "opc-retry-token was used for a request with another body in the last 24 hours; "
            "take a new one"
        )
    return Answer(before.status, before.body, dict(before.headers))
