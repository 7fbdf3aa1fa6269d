"""Model groups through the official client: created, cloned, versioned, refused."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import oci
import pytest
from oci.data_science import DataScienceClientCompositeOperations
from oci.data_science import models as m

from tests.oci.conftest import Story
from tests.oci.served import COMPARTMENT, OWNER, Served


def clone(source: str, *items: m.PatchInstruction, kind: str = "MODEL_GROUP") -> Any:
    create = {
        "MODEL_GROUP": m.CloneCreateFromModelGroupDetails,
        "MODEL_GROUP_VERSION_HISTORY": m.CloneCreateFromModelGroupVersionHistoryDetails,
    }[kind]
    details = create(
        source_id=source,
        modify_model_group_details=m.ModifyModelGroupDetails(version_label="next"),
        patch_model_group_member_model_details=m.PatchModelGroupMemberModelDetails(
            items=list(items)
        ),
    )
    return m.CloneModelGroupDetails(**OWNER, model_group_clone_source_details=details)


async def test_versions_are_numbered_in_their_history(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        first = served.group(base, {"k": adapter})
        history = client.create_model_group_version_history(
            m.CreateModelGroupVersionHistoryDetails(
                **OWNER, display_name="h", latest_model_group_id=first
            )
        ).data
        remove = m.PatchRemoveMemberModels(values=[m.MemberModelDetails(model_id=adapter)])
        second = client.create_model_group(
            clone(history.id, remove, kind="MODEL_GROUP_VERSION_HISTORY")
        ).data
        assert (second.version_id, second.version_label) == (2, "next")
        assert (second.source_model_group_id, second.create_type) == (first, "CLONE")
        assert len(second.member_model_entries.member_model_details) == 1
        latest = client.get_model_group_version_history(history.id).data
        assert latest.latest_model_group_id == second.id
        found = client.list_model_groups(
            COMPARTMENT, model_group_version_history_id=history.id, sort_order="ASC"
        ).data
        assert [each.version_id for each in found] == [1, 2]
        client.delete_model_group(second.id)
        latest = client.get_model_group_version_history(history.id).data
        assert latest.latest_model_group_id == first

    await story(words)


async def test_the_composite_client_waits_for_the_work_of_a_creation(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        group = served.group(base, {"k": adapter})
        composite = DataScienceClientCompositeOperations(served.client)
        done = composite.create_model_group_and_wait_for_state(clone(group), ["SUCCEEDED"])
        assert done.data.percent_complete == 100.0
        off = composite.deactivate_model_group_and_wait_for_state(group, ["INACTIVE"])
        assert off.headers["etag"]
        on = composite.activate_model_group_and_wait_for_state(group, ["ACTIVE"])
        assert on.data.lifecycle_state == "ACTIVE"

    await story(words)


async def test_members_are_listed_with_their_keys(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        group = served.group(base, {"k": adapter})
        found = served.client.list_model_group_models(group, COMPARTMENT, sort_order="ASC").data
        assert {each.inference_key: each.model_id for each in found} == {"base": base, "k": adapter}

    await story(words)


async def test_a_group_is_downloaded_as_one_zip_and_in_ranges(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        group = served.group(base, {"k": adapter})
        client = served.client
        size = int(client.head_model_group_artifact(group).headers["content-length"])
        whole = client.get_model_group_artifact_content(group).data.content
        part = client.get_model_group_artifact_content(group, range="bytes=10-19").data.content
        assert (len(whole), part) == (size, whole[10:20])
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            names = archive.namelist()
        assert "model-group.json" in names
        assert f"models/{adapter}/adapter_config.json" in names

    await story(words)


async def test_what_is_used_is_not_deleted(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        group = served.group(base, {"k": adapter})
        for model in (base, adapter):
            with pytest.raises(oci.exceptions.ServiceError, match=group) as caught:
                served.client.delete_model(model)
            assert (caught.value.status, caught.value.code) == (409, "Conflict")
        served.client.delete_model_group(group)
        served.client.delete_model(adapter)

    await story(words)


def stacked(base: str | None, *members: tuple[str | None, str], **more: Any) -> Any:
    entries = [m.MemberModelDetails(inference_key=key, model_id=model) for key, model in members]
    return m.CreateModelGroupDetails(
        **OWNER,
        model_group_details=m.StackedModelGroupDetails(base_model_id=base, **more),
        member_model_entries=m.MemberModelEntries(member_model_details=entries),
    )


async def test_every_mistake_in_a_group_is_told_by_its_field(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        empty = served.client.create_model(m.CreateModelDetails(**OWNER)).data.id
        both = [m.CustomMetadata(key="x", value="1"), m.CustomMetadata(key="x", value="2")]
        engine = [m.CustomMetadata(key="stackserve.engine", value='{"max_num_seqs": 0}')]
        traffic = [m.CustomMetadata(key="stackserve.traffic", value='{"members": {"z": {}}}')]
        place = "memberModelEntries.memberModelDetails"
        mistakes = [
            (stacked(None, ("k", adapter)), "baseModelId is required"),
            (stacked(base, ("k", adapter), ("k", base)), f"{place}.1.inferenceKey is k"),
            (stacked(base, ("k", adapter), ("l", adapter)), f"{place}.1.modelId"),
            (stacked(base, ("x" * 33, adapter)), "inferenceKey"),
            (stacked(adapter, ("k", base)), "of the kind adapter"),
            (stacked(base, ("k", empty)), "has no artifact"),
            (stacked(base, ("k", "ocid1.nobody")), "there is no model ocid1.nobody"),
            (stacked(base, ("k", adapter), custom_metadata_list=both), "more than once"),
            (stacked(base, ("k", adapter), custom_metadata_list=engine), "max_num_seqs"),
            (stacked(base, ("k", adapter), custom_metadata_list=traffic), "has the key z"),
            (m.CreateModelGroupDetails(**OWNER), "create-model-group-create-model-group-details"),
        ]
        for details, sentence in mistakes:
            with pytest.raises(oci.exceptions.ServiceError, match=sentence) as caught:
                served.client.create_model_group(details)
            assert caught.value.status == 400, sentence
        assert served.client.list_model_groups(COMPARTMENT).data == []

    await story(words)


async def test_a_base_that_is_no_member_is_added_and_said_so(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        group = served.client.create_model_group(stacked(base, ("k", adapter))).data
        members = group.member_model_entries.member_model_details
        assert [each.model_id for each in members] == [base, adapter]
        assert "was added" in group.lifecycle_details

    await story(words)
