"""Projects, through the official client."""

from __future__ import annotations

import oci
import pytest
from oci.data_science.models import CreateProjectDetails, UpdateProjectDetails

from tests.oci.conftest import COMPARTMENT, ControlPlane


def create(plane: ControlPlane, name: str = "p", **headers: str) -> oci.Response:
    details = CreateProjectDetails(compartment_id=COMPARTMENT, display_name=name)
    return plane.client.create_project(details, **headers)


def test_a_project_is_what_it_was_created_as(plane: ControlPlane) -> None:
    created = create(plane)
    got = plane.client.get_project(created.data.id)
    assert (got.data.display_name, got.data.compartment_id) == ("p", COMPARTMENT)
    assert got.data.lifecycle_state == "ACTIVE"
    assert got.headers["etag"] == created.headers["etag"]
    assert got.headers["opc-request-id"]


def test_projects_are_listed_page_by_page(plane: ControlPlane) -> None:
    names = [f"p{number}" for number in range(5)]
    for name in names:
        create(plane, name)
    found = oci.pagination.list_call_get_all_results(
        plane.client.list_projects, COMPARTMENT, limit=2, sort_by="displayName", sort_order="ASC"
    )
    assert [project.display_name for project in found.data] == names


def test_a_stale_etag_is_refused(plane: ControlPlane) -> None:
    created = create(plane)
    old = created.headers["etag"]
    plane.client.update_project(
        created.data.id, UpdateProjectDetails(display_name="q"), if_match=old
    )
    with pytest.raises(oci.exceptions.ServiceError, match="changed meanwhile") as caught:
        plane.client.delete_project(created.data.id, if_match=old)
    assert (caught.value.status, caught.value.code) == (412, "NoEtagMatch")


def test_a_retry_creates_nothing_new(plane: ControlPlane) -> None:
    first = create(plane, opc_retry_token="t")
    second = create(plane, opc_retry_token="t")
    assert first.data.id == second.data.id
    with pytest.raises(oci.exceptions.ServiceError) as caught:
        create(plane, "another", opc_retry_token="t")
    assert (caught.value.status, caught.value.code) == (409, "InvalidatedRetryToken")


def test_a_deleted_project_is_gone_and_its_work_request_done(plane: ControlPlane) -> None:
    created = create(plane)
    deleted = plane.client.delete_project(created.data.id)
    work = plane.client.get_work_request(deleted.headers["opc-work-request-id"])
    assert (work.data.status, work.data.percent_complete) == ("SUCCEEDED", 100.0)
    with pytest.raises(oci.exceptions.ServiceError) as caught:
        plane.client.get_project(created.data.id)
    assert (caught.value.status, caught.value.code) == (404, "NotAuthorizedOrNotFound")


def test_a_name_over_its_limit_is_refused_by_its_field(plane: ControlPlane) -> None:
    with pytest.raises(oci.exceptions.ServiceError, match="displayName") as caught:
        create(plane, "x" * 256)
    assert (caught.value.status, caught.value.code) == (400, "InvalidParameter")
