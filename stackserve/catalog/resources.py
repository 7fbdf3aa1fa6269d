"""What all resources share: ids, etags, and lists by page."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import Select, and_, or_, select
from sqlalchemy.orm import Session

from stackserve.errors import InvalidParameter, NotFound, StaleEtag
from stackserve.store.tables import Resource

R = TypeVar("R", bound=Resource)

MOST_ROWS = 1000
"""Of one page."""

SORTABLE = {"timeCreated": "time_created", "displayName": "display_name",
            "lifecycleState": "lifecycle_state"}  # fmt: skip


def new_id(kind: str) -> str:
    """An OCID of this server, such as `ocid1.datasciencemodelgroup.oc1.local.3f…`."""
    return f"ocid1.{kind}.oc1.local.{uuid.uuid4().hex}"


def now() -> datetime:
    """To the millisecond, as it is written on the wire, so that a page's end is found again."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def find(session: Session, table: type[R], identifier: str, *, lock: bool = False) -> R:
    """The resource of this id, `lock`ed against other writers. Raises NotFound.

    A row is read again when it is locked: another writer may have changed it since it was seen.
    """
    row = session.get(table, identifier, with_for_update=lock or None, populate_existing=lock)
    if row is None:
        raise NotFound(f"there is no {noun(table)} {identifier[:128]}")
    return row


def find_named(
    session: Session, table: type[R], identifier: str, place: str, *, lock: bool = False
) -> R:
    """As `find`, of an id that a request has in a field. Raises InvalidParameter, which names `place`."""
    try:
        return find(session, table, identifier, lock=lock)
    except NotFound as error:
        raise InvalidParameter(f"{place}: {error.message}") from None


def changing(session: Session, table: type[R], identifier: str, if_match: str | None) -> R:
    """The resource of this id, locked, with the change noted that is about to be made.

    Raises NotFound, and StaleEtag when the caller read another revision.
    """
    row = find(session, table, identifier, lock=True)
    touch(row, if_match)
    return row


def touch(row: Resource, if_match: str | None) -> None:
    """Note a change of a locked row. Raises StaleEtag when the caller read another revision."""
    if if_match is not None and if_match.strip('"') not in ("*", etag(row)):
        raise StaleEtag(
            f"if-match is {if_match[:64]}, and the etag of {row.id} is {etag(row)}: it was changed "
            "meanwhile; read it again"
        )
    row.revision += 1
    row.time_updated = now()


def change(row: Resource, columns: Mapping[str, Any]) -> None:
    """Give columns their new values; fields that nothing reads are added to those kept before."""
    for column, value in columns.items():
        setattr(row, column, {**row.unused, **value} if column == "unused" else value)


def update(
    session: Session,
    table: type[R],
    identifier: str,
    if_match: str | None,
    columns: Mapping[str, Any],
) -> R:
    """Change columns that nothing else depends on. Raises NotFound, StaleEtag."""
    row = changing(session, table, identifier, if_match)
    change(row, columns)
    return row


def new_resource(table: type[R], kind: str, created_by: str, state: str, **columns: Any) -> R:
    """A resource that begins now, and is not added to a session yet; `kind` is that of its OCID."""
    moment = now()
    return table(
        id=new_id(kind),
        lifecycle_state=state,
        created_by=created_by,
        time_created=moment,
        time_updated=moment,
        revision=1,
        **{"lifecycle_details": "", **columns},
    )


def noun(table: type[Resource]) -> str:
    """`model version set`, for ModelVersionSet."""
    return (
        str(table.__tablename__).replace("_", " ").replace("histories", "history").removesuffix("s")
    )


def etag(row: Resource) -> str:
    return str(row.revision)


@dataclass(frozen=True)
class Listing:
    """What a list is asked for. `where` has the filters, by column."""

    where: Mapping[str, str] = field(default_factory=dict)
    sort_by: str = "timeCreated"
    ascending: bool = False
    limit: int = 100
    page: str | None = None


@dataclass(frozen=True)
class Page(Generic[R]):
    rows: Sequence[R]
    next: str | None
    """Where the next page begins; None after the last."""


def list_page(
    session: Session, table: type[R], listing: Listing, among: Select[Any] | None = None
) -> Page[R]:
    """A page of the resources that pass all filters. What is inserted between two pages moves nothing.

    Raises InvalidParameter for a page or a limit that makes no sense.
    """
    if not 1 <= listing.limit <= MOST_ROWS:
        raise InvalidParameter(f"limit is {listing.limit}; give 1 to {MOST_ROWS}")
    if listing.sort_by not in SORTABLE:
        raise InvalidParameter(f"sortBy is {listing.sort_by!r}; give one of {', '.join(SORTABLE)}")
    key = getattr(table, SORTABLE[listing.sort_by])
    query = select(table) if among is None else among
    for column, value in listing.where.items():
        query = query.where(getattr(table, column) == value)
    if listing.page is not None:
        query = query.where(_after(table, key, listing))
    order = (key.asc(), table.id.asc()) if listing.ascending else (key.desc(), table.id.desc())
    rows = session.scalars(query.order_by(*order).limit(listing.limit + 1)).all()
    more = len(rows) > listing.limit
    rows = rows[: listing.limit]
    return Page(rows, _token(rows[-1], listing) if more else None)


def offset_page(
    session: Session, query: Select[*tuple[Any, ...]], limit: int, page: str
) -> tuple[Sequence[Any], str | None]:
    """A page by its offset, for what only grows at one end or has one order; and where the next begins.

    Raises InvalidParameter for a page or a limit that makes no sense.
    """
    if not 1 <= limit <= MOST_ROWS or not page.isdecimal():
        raise InvalidParameter(f"limit must be 1 to {MOST_ROWS}, and page one from opc-next-page")
    start = int(page)
    rows = session.execute(query.offset(start).limit(limit + 1)).all()
    return rows[:limit], str(start + limit) if len(rows) > limit else None


def _token(row: Resource, listing: Listing) -> str:
    value = getattr(row, SORTABLE[listing.sort_by])
    return base64.urlsafe_b64encode(msgspec.json.encode([value, row.id])).decode()


def _after(table: type[R], key: Any, listing: Listing) -> Any:
    kind = datetime if listing.sort_by == "timeCreated" else str
    try:
        raw = base64.urlsafe_b64decode(listing.page or "")
        value, last = msgspec.json.decode(raw, type=tuple[kind, str])  # type: ignore[valid-type]
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        raise InvalidParameter(
            "page is not one of this list; take it from opc-next-page, with the same sortBy"
        ) from None
    if listing.ascending:
        return or_(key > value, and_(key == value, table.id > last))
    return or_(key < value, and_(key == value, table.id < last))
