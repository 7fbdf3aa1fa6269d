"""Work requests: what was asked for, how far it is, and what it says of itself."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy.orm import Session

from stackserve.catalog.resources import new_id, now
from stackserve.errors import NotFound
from stackserve.store.tables import Resource, WorkRequest, WorkRequestLine


class Status(StrEnum):
    ACCEPTED = "ACCEPTED"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def is_final(self) -> bool:
        return self not in (Status.ACCEPTED, Status.IN_PROGRESS)


def accept(session: Session, operation: str, action: str, resource: Resource) -> WorkRequest:
    """Work on a resource that is to be done: `MODEL_GROUP_CREATE`, `CREATED`."""
    work = WorkRequest(
        id=new_id("datascienceworkrequest"),
        operation_type=operation,
        status=Status.ACCEPTED,
        compartment_id=resource.compartment_id,
        resource_id=resource.id,
        entity_type=resource.__tablename__,
        action_type=action,
        percent_complete=0.0,
        time_accepted=now(),
    )
    session.add(work)
    session.flush()
    return work


def done_at_once(session: Session, operation: str, action: str, resource: Resource) -> WorkRequest:
    """The record of work that was done in the transaction that asked for it."""
    work = accept(session, operation, action, resource)
    finish(work)
    return work


def begin(work: WorkRequest) -> None:
    work.status, work.time_started = Status.IN_PROGRESS, work.time_started or now()


def finish(work: WorkRequest) -> None:
    work.status, work.percent_complete = Status.SUCCEEDED, 100.0
    work.time_started = work.time_started or now()
    work.time_finished = now()


def fail(session: Session, work: WorkRequest, code: str, message: str) -> None:
    work.status, work.percent_complete = Status.FAILED, 100.0
    work.time_finished = now()
    session.add(WorkRequestLine(work_request_id=work.id, code=code, message=message, time=now()))


def cancel(work: WorkRequest) -> None:
    work.status, work.percent_complete = Status.CANCELED, 100.0
    work.time_finished = now()


def log(session: Session, work: WorkRequest, message: str) -> None:
    session.add(WorkRequestLine(work_request_id=work.id, code=None, message=message, time=now()))


def find_work(session: Session, identifier: str, *, lock: bool = False) -> WorkRequest:
    """Raises NotFound."""
    work = session.get(WorkRequest, identifier, with_for_update=lock or None)
    if work is None:
        raise NotFound(f"there is no work request {identifier[:128]}")
    return work
