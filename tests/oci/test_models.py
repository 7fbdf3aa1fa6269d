"""Models through the official client: created, found, changed, refused, deleted."""

from __future__ import annotations

from typing import Any

import httpx
import oci
import pytest
from oci.data_science import models as m

from stackserve.oci.api import PREFIX
from tests.oci.conftest import Story
from tests.oci.served import COMPARTMENT, OWNER, Served, refused

ELSEWHERE = "ocid1.compartment.oc1..elsewhere"


def create(served: Served, **fields: Any) -> Any:
    return served.client.create_model(m.CreateModelDetails(**{**OWNER, **fields})).data


def listed(served: Served, compartment: str = COMPARTMENT, **asked: Any) -> list[str]:
    return [each.id for each in served.client.list_models(compartment, **asked).data]


async def test_a_model_is_shown_as_it_was_created(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        metadata = m.Metadata(key="k", value="v", description="d", category="Other")
        created = create(
            served,
            display_name="mine",
            description="of mine",
            freeform_tags={"team": "a"},
            defined_tags={"ns": {"k": 1}},
            custom_metadata_list=[metadata],
            defined_metadata_list=[m.Metadata(key="Framework", value="pytorch")],
            input_schema='{"type": "object"}',
            retention_setting=m.RetentionSetting(archive_after_days=3),
        )
        model = served.client.get_model(created.id).data
        assert model == created
        assert (model.display_name, model.description) == ("mine", "of mine")
        assert (model.freeform_tags, model.defined_tags) == ({"team": "a"}, {"ns": {"k": 1}})
        assert model.custom_metadata_list == [metadata]
        assert model.defined_metadata_list[0].value == "pytorch"
        assert model.input_schema == '{"type": "object"}'
        assert model.retention_setting.archive_after_days == 3
        assert (model.lifecycle_state, model.category) == ("ACTIVE", "USER")
        assert model.is_model_by_reference is False

    await story(words)


async def test_a_model_without_a_name_is_given_one(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        assert create(served).display_name.startswith("model2")

    await story(words)


async def test_lists_are_of_what_passes_every_filter(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        details = m.CreateModelVersionSetDetails(**OWNER, name="set")
        versions = served.client.create_model_version_set(details).data.id
        one = create(
            served, display_name="one", model_version_set_id=versions, version_label="first"
        ).id
        two = create(served, display_name="two", compartment_id=ELSEWHERE).id
        off = create(served, display_name="off", project_id="ocid1.datascienceproject.oc1..p").id
        served.client.deactivate_model(off)
        asked: list[tuple[dict[str, Any], list[str]]] = [
            ({"sort_by": "displayName", "display_name": "one"}, [one]),
            ({"id": one}, [one]),
            ({"compartment": ELSEWHERE}, [two]),
            ({"project_id": "ocid1.datascienceproject.oc1..p"}, [off]),
            ({"lifecycle_state": "INACTIVE"}, [off]),
            ({"lifecycle_state": "DELETED"}, []),
            ({"created_by": "nobody"}, []),
            ({"model_version_set_name": "set"}, [one]),
            ({"model_version_set_name": "no set"}, []),
            ({"version_label": "first"}, [one]),
            ({"model_version_set_name": "set", "version_label": "second"}, []),
            ({"category": "USER", "display_name": "off"}, [off]),
            ({"category": "SERVICE"}, []),
            ({"sort_order": "ASC"}, [base, adapter, one, off]),
            ({"sort_by": "displayName"}, [one, off, base, adapter]),
        ]
        for filters, expected in asked:
            found = listed(served, **filters)
            if filters == {"sort_by": "displayName"}:  # two have the same name
                found, expected = found[:2], expected[:2]
            assert found == expected, filters

    await story(words)


async def test_pages_hold_every_model_once(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        wanted = {base, adapter, *(create(served).id for _ in range(5))}
        pages = oci.pagination.list_call_get_all_results(
            served.client.list_models, COMPARTMENT, limit=2
        )
        found = [each.id for each in pages.data]
        assert (len(found), set(found)) == (7, wanted)

    await story(words)


async def test_what_is_not_given_in_an_update_stays(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        created = create(served, display_name="a", description="d", freeform_tags={"x": "1"})
        details = m.UpdateModelDetails(
            display_name="b", custom_metadata_list=[m.Metadata(key="k", value="v")]
        )
        model = served.client.update_model(created.id, details).data
        assert (model.display_name, model.description) == ("b", "d")
        assert (model.freeform_tags, model.custom_metadata_list[0].key) == ({"x": "1"}, "k")
        again = m.UpdateModelDetails(freeform_tags={}, custom_metadata_list=[])
        model = served.client.update_model(created.id, again).data
        assert (model.freeform_tags, model.custom_metadata_list) == ({}, [])

    await story(words)


async def test_every_change_asks_for_the_etag_that_was_read(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        read = client.get_model(adapter).headers["etag"]
        client.update_model(adapter, m.UpdateModelDetails(description="new"), if_match=read)
        move = m.ChangeModelCompartmentDetails(compartment_id=ELSEWHERE)
        stale = (
            lambda: client.update_model(adapter, m.UpdateModelDetails(), if_match=read),
            lambda: client.deactivate_model(adapter, if_match=read),
            lambda: client.change_model_compartment(adapter, move, if_match=read),
            lambda: client.delete_model(adapter, if_match=read),
        )
        for change in stale:
            with refused(412, "NoEtagMatch", "read it again"):
                change()
        client.delete_model(adapter, if_match=client.get_model(adapter).headers["etag"])

    await story(words)


async def test_an_inactive_model_is_taken_by_no_group_until_it_is_active_again(
    story: Story,
) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        assert client.deactivate_model(adapter).data.lifecycle_state == "INACTIVE"
        with refused(409, "Conflict", f"{adapter}.*INACTIVE"):
            served.group(base, {"k": adapter})
        assert client.activate_model(adapter).data.lifecycle_state == "ACTIVE"
        served.group(base, {"k": adapter})

    await story(words)


async def test_a_model_moves_to_another_compartment(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        move = m.ChangeModelCompartmentDetails(compartment_id=ELSEWHERE)
        served.client.change_model_compartment(adapter, move)
        assert listed(served) == [base]
        assert listed(served, ELSEWHERE) == [adapter]

    await story(words)


async def test_a_deleted_model_is_gone_for_every_operation(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        client.delete_model(adapter)
        gone = (
            lambda: client.get_model(adapter),
            lambda: client.update_model(adapter, m.UpdateModelDetails()),
            lambda: client.activate_model(adapter),
            lambda: client.delete_model(adapter),
            lambda: client.create_model_artifact(adapter, b"PK"),
            lambda: client.get_model_artifact_content(adapter),
        )
        for operation in gone:
            with refused(404, "NotAuthorizedOrNotFound", f"there is no model {adapter}"):
                operation()
        assert listed(served) == [base]

    await story(words)


async def test_a_refused_deletion_names_the_groups_and_not_all_of_many(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        groups = {served.group(base, {"k": adapter}) for _ in range(4)}
        with pytest.raises(oci.exceptions.ServiceError, match="and others") as caught:
            served.client.delete_model(base)
        assert len([group for group in groups if group in caught.value.message]) == 3

    await story(words)


async def test_a_create_that_is_sent_twice_is_done_once(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        details = m.CreateModelDetails(**OWNER, display_name="once")
        first, again = (
            served.client.create_model(details, opc_retry_token="token").data for _ in range(2)
        )
        assert first == again
        assert len(listed(served, display_name="once")) == 1

    await story(words)


async def test_a_mistake_is_told_by_its_field(story: Story) -> None:
    owner = {"compartmentId": "c", "projectId": "p"}
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"projectId": "p"}, "compartmentId is required"),
        ({"compartmentId": "c"}, "projectId is required"),
        ({**owner, "displayName": "x" * 256}, "displayName"),
        ({**owner, "displayName": 7}, "displayName"),
        ({**owner, "displayName": "a\0b"}, "displayName"),
        ({**owner, "customMetadataList": [{"value": "v"}]}, "customMetadataList.0.key is required"),
        (
            {**owner, "modelVersionSetId": "ocid1.none"},
            "modelVersionSetId: there is no model version set ocid1.none",
        ),
    ]

    def words(served: Served, base: str, adapter: str) -> None:
        for body, sentence in mistakes:
            answer = httpx.post(f"{served.url}{PREFIX}/models", json=body)
            assert (answer.status_code, sentence in answer.json()["message"]) == (400, True), body
        assert set(listed(served)) == {base, adapter}

    await story(words)


async def test_a_list_that_makes_no_sense_is_refused(story: Story) -> None:
    senseless = ("limit=0", "limit=1001", "limit=x", f"limit={'9' * 5000}", "page=x", "page=%00",
                 "sortBy=id", "sortOrder=up")  # fmt: skip

    def words(served: Served, base: str, adapter: str) -> None:
        for asked in senseless:
            url = f"{served.url}{PREFIX}/models?compartmentId={COMPARTMENT}&{asked}"
            answer = httpx.get(url)
            assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter"), asked

    await story(words)
