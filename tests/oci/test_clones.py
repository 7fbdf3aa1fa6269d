"""Clones of model groups through the official client: what they keep, change and refuse."""

from __future__ import annotations

from typing import Any

from oci.data_science import models as m

from tests.conftest import Models
from tests.oci.conftest import Story
from tests.oci.served import OWNER, Served, refused

ITEMS = r"modelGroupCloneSourceDetails\.patchModelGroupMemberModelDetails\.items"
DETAILS = r"modelGroupCloneSourceDetails\.modifyModelGroupDetails\.modelGroupDetails"


def insert(model: str, key: str | None = None) -> Any:
    return m.PatchInsertNewMemberModels(
        values=[m.MemberModelDetails(model_id=model, inference_key=key)]
    )


def remove(model: str, key: str | None = None) -> Any:
    return m.PatchRemoveMemberModels(
        values=[m.MemberModelDetails(model_id=model, inference_key=key)]
    )


def clone_of(source: str, *items: Any, **changes: Any) -> m.CloneModelGroupDetails:
    """The members change by `items`, the rest by `changes`."""
    details = m.CloneCreateFromModelGroupDetails(
        source_id=source,
        modify_model_group_details=m.ModifyModelGroupDetails(**changes) if changes else None,
        patch_model_group_member_model_details=(
            m.PatchModelGroupMemberModelDetails(items=list(items)) if items else None
        ),
    )
    return m.CloneModelGroupDetails(**OWNER, model_group_clone_source_details=details)


def members_of(group: Any) -> list[tuple[str | None, str]]:
    return [
        (each.inference_key, each.model_id)
        for each in group.member_model_entries.member_model_details
    ]


async def test_a_clone_is_its_source_but_for_what_is_changed(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        metadata = [m.CustomMetadata(key="x", value="1", description="d", category="Other")]
        source = served.group(base, {"k": adapter}, "source", custom_metadata_list=metadata)
        tags = m.UpdateModelGroupDetails(description="d", freeform_tags={"team": "x"})
        client.update_model_group(source, tags)

        same = client.create_model_group(clone_of(source)).data
        assert (same.display_name, same.description) == ("source", "d")
        assert (same.freeform_tags, same.create_type) == ({"team": "x"}, "CLONE")
        assert same.model_group_details.custom_metadata_list == metadata
        assert members_of(same) == [("base", base), ("k", adapter)]

        other = m.StackedModelGroupDetails(base_model_id=base, custom_metadata_list=[])
        changes = {"display_name": "n", "freeform_tags": {}, "model_group_details": other}
        changed = client.create_model_group(clone_of(source, **changes)).data
        assert (changed.display_name, changed.description) == ("n", "d")
        assert changed.freeform_tags == {}
        assert changed.model_group_details.custom_metadata_list == []
        assert client.get_model_group(source).data.display_name == "source"

    await story(words)


async def test_members_are_inserted_and_removed(story: Story, models: Models) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        b = served.model(models.adapter("b"))
        source = served.group(base, {"k": adapter})
        patches = remove(adapter, "k"), insert(b, "k"), insert(adapter)
        clone = served.client.create_model_group(clone_of(source, *patches)).data
        assert members_of(clone) == [("base", base), ("k", b), (None, adapter)]
        assert members_of(served.client.get_model_group(source).data)[1:] == [("k", adapter)]

    await story(words)


async def test_every_mistake_in_a_clone_is_told_by_its_field(story: Story, models: Models) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        b, second = served.model(models.adapter("b")), served.model(models.base)
        empty = client.create_model(m.CreateModelDetails(**OWNER)).data.id
        traffic = m.CustomMetadata(key="stackserve.traffic", value='{"members": {"k": {}}}')
        source = served.group(base, {"k": adapter}, custom_metadata_list=[traffic])
        rebased = m.StackedModelGroupDetails(base_model_id=second)
        retyped = m.HomogeneousModelGroupDetails()
        value = rf"{ITEMS}\.0\.values\.0"
        for details, sentence in (
            (clone_of("ocid1.nobody"), r"CloneSourceDetails\.sourceId: there is no group"),
            (clone_of(source, insert(adapter)), rf"{value}\.modelId: {adapter} is a member"),
            (clone_of(source, insert(b, "k")), rf"{value}\.inferenceKey is k, the key of"),
            (clone_of(source, insert(b, "x" * 33)), rf"{value}\.inferenceKey is 'xxx"),
            (clone_of(source, insert("ocid1.nobody")), rf"{value}\.modelId: there is no model"),
            (clone_of(source, insert(empty)), rf"{value}\.modelId: .* has no artifact"),
            (clone_of(source, insert(second)), rf"{value}\.modelId: .* of the kind base"),
            (clone_of(source, remove(b)), rf"{value}\.modelId: {b} is not a member"),
            (clone_of(source, remove(adapter, "z")), rf"{value}\.inferenceKey is z"),
            (clone_of(source, remove(base)), rf"{value}\.modelId: {base} is the base"),
            (clone_of(source, remove(adapter)), r"stackserve\.traffic: members\.k"),
            (clone_of(source, model_group_details=rebased), f"{DETAILS}: a clone keeps"),
            (clone_of(source, model_group_details=retyped), f"{DETAILS}: a clone keeps"),
            (clone_of(source, version_label="x" * 256), r"modifyModelGroupDetails\.versionLabel"),
            (m.CloneModelGroupDetails(**OWNER), "create-model-group-clone-model-group-details"),
        ):
            with refused(400, "InvalidParameter", sentence):
                client.create_model_group(details)

    await story(words)


async def test_more_than_500_members_are_refused_in_a_clone_too(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        source = served.group(base, {"k": adapter})
        many = [m.MemberModelDetails(model_id=f"ocid1.m{n}") for n in range(499)]
        patch = m.PatchInsertNewMemberModels(values=many)
        with refused(400, "InvalidParameter", f"{ITEMS} has 501 members; give 1 to 500"):
            served.client.create_model_group(clone_of(source, patch))

    await story(words)


async def test_a_clone_needs_a_source_that_can_still_be_served(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        source = served.group(base, {"k": adapter})
        client.deactivate_model(adapter)
        with refused(
            409, "Conflict", rf"CloneSourceDetails\.sourceId: model {adapter} is INACTIVE"
        ):
            client.create_model_group(clone_of(source))
        history = client.create_model_group_version_history(
            m.CreateModelGroupVersionHistoryDetails(**OWNER)
        ).data.id
        of_history = m.CloneModelGroupDetails(
            **OWNER,
            model_group_clone_source_details=m.CloneCreateFromModelGroupVersionHistoryDetails(
                source_id=history
            ),
        )
        with refused(409, "Conflict", "has no group yet"):
            client.create_model_group(of_history)

    await story(words)
