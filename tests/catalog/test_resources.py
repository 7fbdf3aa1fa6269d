"""What all resources share, on either database."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from stackserve.catalog.histories import create_history
from stackserve.catalog.resources import Listing, find, list_page, now, touch
from stackserve.errors import InvalidParameter, NotFound, StaleEtag
from stackserve.store.database import Database
from stackserve.store.tables import VersionHistory


def new(session: Session, name: str = "h") -> VersionHistory:
    return create_history(session, "me", compartment_id="c", project_id="p", display_name=name)


def names(database: Database, listing: Listing) -> list[str]:
    """Of all pages."""
    found: list[str] = []
    page: str | None = None
    while True:
        with database.read() as session:
            asked = Listing(listing.where, listing.sort_by, listing.ascending, listing.limit, page)
            got = list_page(session, VersionHistory, asked)
        found += [row.display_name for row in got.rows]
        if (page := got.next) is None:
            return found


def test_a_row_is_read_again_when_it_is_locked(database: Database) -> None:
    with database.write() as session:
        identifier = new(session).id
    with database.write() as session:
        seen = find(session, VersionHistory, identifier)
        session.execute(text("UPDATE version_histories SET latest_version = 7"))
        assert seen.latest_version == 0
        assert find(session, VersionHistory, identifier, lock=True).latest_version == 7


def test_what_was_changed_is_kept_when_the_row_is_locked_again(database: Database) -> None:
    with database.write() as session:
        identifier = new(session).id
        find(session, VersionHistory, identifier, lock=True).display_name = "changed"
        assert find(session, VersionHistory, identifier, lock=True).display_name == "changed"


def test_what_there_is_not_is_named(database: Database) -> None:
    with database.read() as session, pytest.raises(NotFound, match=r"no version history ocid1\.x"):
        find(session, VersionHistory, "ocid1.x")


@pytest.mark.parametrize("if_match", [None, "1", '"1"', "*"])
def test_a_change_needs_the_etag_that_was_read_or_none(
    database: Database, if_match: str | None
) -> None:
    with database.write() as session:
        row = new(session)
        touch(row, if_match)
        assert row.revision == 2
        with pytest.raises(StaleEtag, match="read it again"):
            touch(row, "1")


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("sort_by", ["displayName", "lifecycleState"])
def test_every_row_is_on_one_page_also_among_equals(
    database: Database, sort_by: str, limit: int
) -> None:
    with database.write() as session:
        for name in ("b", "a", "b", "c", "b"):
            new(session, name)
    ascending = names(database, Listing(sort_by=sort_by, ascending=True, limit=limit))
    assert names(database, Listing(sort_by=sort_by, limit=limit)) == ascending[::-1]
    assert sorted(ascending) == ["a", "b", "b", "b", "c"]
    if sort_by == "displayName":
        assert ascending == sorted(ascending)


def test_the_oldest_comes_first_or_last_also_at_the_end_of_a_page(database: Database) -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    with database.write() as session:
        for number in range(5):
            new(session, str(number)).time_created = moment.replace(microsecond=number // 2 * 1000)
    listed = names(database, Listing(limit=2, ascending=True))
    assert [sorted(listed[:2]), sorted(listed[2:4]), listed[4:]] == [["0", "1"], ["2", "3"], ["4"]]


@pytest.mark.parametrize(
    ("listing", "sentence"),
    [
        (Listing(limit=0), "limit is 0; give 1 to 1000"),
        (Listing(limit=1001), "limit is 1001"),
        (Listing(sort_by="id"), "sortBy is 'id'; give one of timeCreated"),
        (Listing(page="?"), "page is not one of this list"),
        (Listing(page="é"), "page is not one of this list"),
        (Listing(page=base64.b64encode(b'["x", "y"]').decode()), "page is not one of this list"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(
    database: Database, listing: Listing, sentence: str
) -> None:
    with database.read() as session, pytest.raises(InvalidParameter, match=sentence.split(";")[0]):
        list_page(session, VersionHistory, listing)


def test_a_moment_is_as_exact_as_it_is_written() -> None:
    assert now().microsecond % 1000 == 0
