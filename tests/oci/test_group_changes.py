"""Groups of every type, listed, changed, refused and deleted through the official client."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import oci
import pytest
from oci.data_science import DataScienceClientCompositeOperations
from oci.data_science import models as m
from sqlalchemy import text

from stackserve.catalog.models import delete_model
from stackserve.store.database import Database, open_database
from tests.oci.conftest import Story
from tests.oci.served import COMPARTMENT, OWNER, Served, refused

TYPES = {
    "HOMOGENEOUS": m.HomogeneousModelGroupDetails,
    "HETEROGENEOUS": m.HeterogeneousModelGroupDetails,
}


def group_of(model: str, kind: str = "HOMOGENEOUS", **more: Any) -> m.CreateModelGroupDetails:
    member = m.MemberModelDetails(inference_key="k", model_id=model)
    return m.CreateModelGroupDetails(
        **OWNER,
        model_group_details=TYPES[kind](),
        member_model_entries=m.MemberModelEntries(member_model_details=[member]),
        **more,
    )


def wire(base: str, **changes: Any) -> dict[str, Any]:
    """A stacked group as it is sent, with other fields in places like `a.b.0`."""
    body: dict[str, Any] = {
        "createType": "CREATE",
        "compartmentId": COMPARTMENT,
        "projectId": "p",
        "modelGroupDetails": {"type": "STACKED", "baseModelId": base, "customMetadataList": []},
        "memberModelEntries": {"memberModelDetails": [{"modelId": base, "inferenceKey": "base"}]},
    }
    for path, value in changes.items():
        *parents, last = path.split(".")
        part: Any = body
        for parent in parents:
            part = part[int(parent) if parent.isdigit() else parent]
        part[last] = value
    return body


def posted(served: Served, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{served.url}/20190101/modelGroups", json=body, headers=headers)


@pytest.mark.parametrize("kind", TYPES)
async def test_a_group_that_is_not_stacked_is_kept_as_it_came(story: Story, kind: str) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        created = served.client.create_model_group(group_of(adapter, kind)).data
        got = served.client.get_model_group(created.id).data
        assert (got.model_group_details.type, got.lifecycle_details) == (kind, "")
        (listed,) = served.client.list_model_groups(COMPARTMENT).data
        for each in (got, listed):
            assert each.model_group_details.custom_metadata_list == []
        posted_too = posted(served, wire(base, **{"modelGroupDetails.type": kind}))
        assert "baseModelId is for STACKED groups" in posted_too.json()["message"]

    await story(words)


async def test_fields_that_nothing_reads_come_back(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        details = "memberModelEntries.memberModelDetails.0.note"
        created = posted(served, wire(base, **{"note": {"a": 1}, details: "n"})).json()
        url = f"{served.url}/20190101/modelGroups/{created['id']}"
        assert httpx.put(url, json={"other": 2}).status_code == 200
        got = httpx.get(url).json()
        assert (got["note"], got["other"]) == ({"a": 1}, 2)
        assert got["memberModelEntries"]["memberModelDetails"][0]["note"] == "n"

    await story(words)


async def test_groups_are_listed_page_by_page_filtered_and_sorted(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        names = [f"g{number}" for number in range(5)]
        ids = [
            client.create_model_group(group_of(adapter, display_name=name)).data.id
            for name in names
        ]
        client.deactivate_model_group(ids[2])
        client.change_model_group_compartment(
            ids[4], m.ChangeModelGroupCompartmentDetails(compartment_id="elsewhere")
        )
        found = oci.pagination.list_call_get_all_results(
            client.list_model_groups,
            COMPARTMENT,
            limit=2,
            sort_by="displayName",
            sort_order="DESC",
        ).data
        assert [each.display_name for each in found] == ["g3", "g2", "g1", "g0"]
        for filters, expected in (
            ({"lifecycle_state": "INACTIVE"}, ids[2:3]),
            ({"display_name": "g1"}, ids[1:2]),
            ({"id": ids[0]}, ids[:1]),
            ({"project_id": "nobody's"}, []),
            ({"created_by": "nobody"}, []),
        ):
            listed = client.list_model_groups(COMPARTMENT, **filters).data
            assert [each.id for each in listed] == expected, filters
        assert [each.id for each in client.list_model_groups("elsewhere").data] == ids[4:]

    await story(words)


async def test_members_are_listed_page_by_page_and_filtered(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        group = served.group(base, {"k": adapter})
        found = oci.pagination.list_call_get_all_results(
            served.client.list_model_group_models, group, COMPARTMENT, limit=1, sort_order="ASC"
        ).data
        assert [(each.inference_key, each.model_id) for each in found] == [
            ("base", base),
            ("k", adapter),
        ]
        assert {(each.lifecycle_details, each.is_model_by_reference) for each in found} == {
            ("", False)
        }
        (one,) = served.client.list_model_group_models(group, COMPARTMENT, id=adapter).data
        assert one.inference_key == "k"
        assert served.client.list_model_group_models(group, "elsewhere").data == []

    await story(words)


async def test_a_group_changes_its_names_and_nothing_else(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        created = client.create_model_group(group_of(adapter, version_label="a", description="d"))
        update = m.UpdateModelGroupDetails(display_name="n", version_label="b")
        old = created.headers["etag"]
        changed = client.update_model_group(created.data.id, update, if_match=old)
        assert (changed.data.display_name, changed.data.version_label) == ("n", "b")
        assert changed.data.description == "d"
        for change in (
            lambda: client.update_model_group(created.data.id, update, if_match=old),
            lambda: client.deactivate_model_group(created.data.id, if_match=old),
            lambda: client.activate_model_group(created.data.id, if_match=old),
            lambda: client.delete_model_group(created.data.id, if_match=old),
        ):
            with refused(412, "NoEtagMatch", "changed meanwhile"):
                change()
        url = f"{served.url}/20190101/modelGroups/{created.data.id}"
        refusal = httpx.put(url, json={"memberModelEntries": {"memberModelDetails": []}})
        assert refusal.status_code == 400
        assert "memberModelEntries of a group never change; clone it" in refusal.json()["message"]

    await story(words)


async def test_a_group_is_deactivated_activated_and_deleted_each_with_its_work(
    story: Story,
) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        group = client.create_model_group(group_of(adapter)).data.id
        for _ in range(2):  # the same state again is no error
            off = client.deactivate_model_group(group)
            assert (off.data.lifecycle_state, served.done(off)) == ("INACTIVE", "SUCCEEDED")
        on = client.activate_model_group(group)
        assert (on.data.lifecycle_state, served.done(on)) == ("ACTIVE", "SUCCEEDED")
        composite = DataScienceClientCompositeOperations(client)
        deleted = composite.delete_model_group_and_wait_for_state(group, ["SUCCEEDED"]).data
        assert (deleted.operation_type, deleted.percent_complete) == ("MODEL_GROUP_DELETE", 100.0)
        assert isinstance(client.list_work_request_logs(deleted.id).data, list)
        with refused(404, "NotAuthorizedOrNotFound", f"no group {group}"):
            client.get_model_group(group)

    await story(words)


async def test_a_retry_creates_no_second_group(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        first = client.create_model_group(group_of(adapter), opc_retry_token="t")
        again = client.create_model_group(group_of(adapter), opc_retry_token="t")
        assert (first.data, first.headers["opc-work-request-id"]) == (
            again.data,
            again.headers["opc-work-request-id"],
        )
        with refused(409, "InvalidatedRetryToken", "token"):
            client.create_model_group(group_of(adapter, display_name="x"), opc_retry_token="t")
        assert len(client.list_model_groups(COMPARTMENT).data) == 1

    await story(words)


async def test_a_field_over_its_limit_is_named(story: Story) -> None:
    details, members = "modelGroupDetails", "memberModelEntries.memberModelDetails"
    entries = f"{details}.customMetadataList"
    long = [{"key": f"k{n}", "value": ""} for n in range(65)]
    mistakes: dict[str, tuple[Any, ...]] = {
        "displayName": ("", "x" * 256, "a\0b", 3),
        "description": ("x" * 4001, "a\0b"),
        "versionLabel": ("", "x" * 256),
        "compartmentId": ("", "x" * 256, None),
        "projectId": ("", "x" * 256, None),
        "modelGroupVersionHistoryId": ("", "ocid1.nobody", "a\0b"),
        "freeformTags": ({f"k{n}": "" for n in range(65)}, {"x" * 101: ""}, {"k": 1}, []),
        "definedTags": ({"n": 1}, {"": {}}),
        "createType": ("COPY", None),
        f"{details}.type": ("OTHER", None),
        f"{details}.baseModelId": ("x" * 256, "ocid1.nobody", "a\0b"),
        entries: (long, [{"value": "1"}], [{"key": ""}], [{"key": "x" * 256}], "x"),
        f"{members}.0.modelId": ("", None, 3, "a\0b"),
        f"{members}.0.inferenceKey": ("", "x" * 33, "a/b", "a\n", "a\0b", 3),
        members: ([], None, [3], [{"modelId": f"m{n}"} for n in range(501)]),
    }

    def words(served: Served, base: str, adapter: str) -> None:
        mistakes[entries] += ([{"key": "k", "value": "x" * 16_001}],)
        for field, values in mistakes.items():
            for value in values:
                answer = posted(served, wire(base, **{field: value}))
                told = answer.json()
                assert answer.status_code == 400, (field, value, told)
                assert told["code"] in ("InvalidParameter", "MissingParameter"), told
                assert field in told["message"], (field, value, told)
        assert served.client.list_model_groups(COMPARTMENT).data == []

    await story(words)


async def test_a_path_or_query_that_no_text_can_be_is_refused(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        groups = f"{served.url}/20190101/modelGroups"
        for url in (f"{groups}/a%00b", f"{groups}?compartmentId=a%00b", f"{groups}?limit=1"):
            assert httpx.get(url).status_code == 400
        for limit in ("0", "1001", "-1", "x", "9" * 5000):
            answer = httpx.get(f"{groups}?compartmentId=c&limit={limit}")
            assert (answer.status_code, answer.json()["message"][:5]) == (400, "limit")

    await story(words)


async def test_a_dry_run_tells_everything_and_creates_nothing(story: Story) -> None:
    dry = {"x-stackserve-dry-run": "true"}

    def words(served: Served, base: str, adapter: str) -> None:
        good = posted(served, wire(base), **dry).json()
        assert (good["dryRun"], good["wouldBeCreated"], good["findings"]) == (True, True, [])
        assert good["cost"]["slots"] == 0
        wrong = posted(served, wire(adapter), **dry)
        assert (wrong.status_code, wrong.json()["wouldBeCreated"]) == (200, False)
        (finding,) = wrong.json()["findings"]
        assert finding["code"] == "wrong_kind"
        unknown = posted(served, wire(base, modelGroupVersionHistoryId="ocid1.nobody"), **dry)
        assert unknown.status_code == 400
        assert served.client.list_model_groups(COMPARTMENT).data == []

    await story(words)


async def test_a_model_that_is_being_deleted_is_no_member_of_a_new_group(
    story: Story, database_url: str
) -> None:
    def waits(database: Database) -> bool:
        """Whether a writer of PostgreSQL stands before another one; SQLite's all do by themselves."""
        if database.dialect == "sqlite":
            return True
        query = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        with database.read() as session:
            return bool(session.scalar(query))

    def words(served: Served, base: str, adapter: str) -> None:
        database = open_database(database_url)
        answers: list[httpx.Response] = []

        def create() -> None:
            member = "memberModelEntries.memberModelDetails"
            body = wire(base, **{member: [{"modelId": adapter, "inferenceKey": "k"}]})
            answers.append(posted(served, body))

        creating = threading.Thread(target=create)
        with database.write() as session:
            delete_model(session, adapter, None)
            session.flush()
            creating.start()
            while not waits(database):
                creating.join(0.01)
                assert creating.is_alive()
        creating.join()
        database.close()
        (answer,) = answers
        assert answer.status_code == 400
        assert "memberModelDetails.0.modelId: there is no model" in answer.json()["message"]

    await story(words)
