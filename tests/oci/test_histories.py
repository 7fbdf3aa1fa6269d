"""Version histories through the official client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import oci
from oci.data_science import models as m

from tests.oci.conftest import Story
from tests.oci.served import COMPARTMENT, OWNER, Served, refused


def history(served: Served, name: str = "h", **more: Any) -> Any:
    details = m.CreateModelGroupVersionHistoryDetails(**OWNER, display_name=name, **more)
    return served.client.create_model_group_version_history(details)


def group_in(served: Served, base: str, history_id: str | None, **more: Any) -> Any:
    details = m.CreateModelGroupDetails(
        **OWNER,
        model_group_details=m.StackedModelGroupDetails(base_model_id=base),
        member_model_entries=m.MemberModelEntries(
            member_model_details=[m.MemberModelDetails(inference_key="base", model_id=base)]
        ),
        model_group_version_history_id=history_id,
        **more,
    )
    return served.client.create_model_group(details).data


async def test_a_history_is_what_it_was_created_as_and_changes_with_its_etag(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        created = history(served, description="d", freeform_tags={"team": "x"})
        got = client.get_model_group_version_history(created.data.id)
        assert got.data == created.data
        assert (got.data.description, got.data.freeform_tags) == ("d", {"team": "x"})
        assert (got.data.lifecycle_state, got.data.latest_model_group_id) == ("ACTIVE", None)
        old = got.headers["etag"]
        update = m.UpdateModelGroupVersionHistoryDetails(display_name="i")
        changed = client.update_model_group_version_history(created.data.id, update, if_match=old)
        assert (changed.data.display_name, changed.data.description) == ("i", "d")
        for change in (
            lambda: client.update_model_group_version_history(
                created.data.id, update, if_match=old
            ),
            lambda: client.delete_model_group_version_history(created.data.id, if_match=old),
            lambda: client.change_model_group_version_history_compartment(
                created.data.id,
                m.ChangeModelGroupVersionHistoryCompartmentDetails(compartment_id="c"),
                if_match=old,
            ),
        ):
            with refused(412, "NoEtagMatch", "changed meanwhile"):
                change()

    await story(words)


async def test_histories_are_listed_page_by_page_in_their_compartment(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        ids = [history(served, f"h{number}").data.id for number in range(5)]
        client.change_model_group_version_history_compartment(
            ids[0], m.ChangeModelGroupVersionHistoryCompartmentDetails(compartment_id="elsewhere")
        )
        found = oci.pagination.list_call_get_all_results(
            client.list_model_group_version_histories,
            COMPARTMENT,
            limit=2,
            sort_by="displayName",
            sort_order="ASC",
        ).data
        assert [each.id for each in found] == ids[1:]
        (named,) = client.list_model_group_version_histories(COMPARTMENT, display_name="h3").data
        assert named.id == ids[3]
        (moved,) = client.list_model_group_version_histories("elsewhere").data
        assert moved.id == ids[0]

    await story(words)


async def test_a_history_is_deleted_when_no_group_is_in_it(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        identifier = history(served).data.id
        groups = [group_in(served, base, identifier).id for _ in range(2)]
        with refused(409, "Conflict", "has 2 groups; delete them first"):
            client.delete_model_group_version_history(identifier)
        for group in groups:
            client.delete_model_group(group)
        assert client.get_model_group_version_history(identifier).data.latest_model_group_id is None
        deleted = client.delete_model_group_version_history(identifier)
        work = client.get_work_request(deleted.headers["opc-work-request-id"]).data
        assert work.operation_type == "MODEL_GROUP_VERSION_HISTORY_DELETE"
        with refused(404, "NotAuthorizedOrNotFound", identifier):
            client.get_model_group_version_history(identifier)

    await story(words)


async def test_the_latest_group_is_one_of_the_history(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        mine, other = history(served).data.id, history(served).data.id
        first, second = (group_in(served, base, mine).id for _ in range(2))

        def latest(group: str, of: str = mine) -> str:
            update = m.UpdateModelGroupVersionHistoryDetails(latest_model_group_id=group)
            changed = client.update_model_group_version_history(of, update)
            return str(changed.data.latest_model_group_id)

        assert client.get_model_group_version_history(mine).data.latest_model_group_id == second
        assert latest(first) == first
        with refused(400, "InvalidParameter", "latestModelGroupId: group .* is a version in"):
            latest(first, of=other)
        with refused(400, "InvalidParameter", "latestModelGroupId: there is no group"):
            latest("ocid1.nobody")
        with refused(400, "InvalidParameter", "latestModelGroupId: there is no group"):
            history(served, latest_model_group_id="ocid1.nobody")

    await story(words)


async def test_a_group_joins_a_history_once(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        mine, other = history(served, "mine").data.id, history(served).data.id
        group_in(served, base, mine)
        group = group_in(served, base, None)
        assert (group.version_id, group.model_group_version_history_id) == (1, None)

        def join(identifier: str) -> Any:
            update = m.UpdateModelGroupDetails(model_group_version_history_id=identifier)
            return client.update_model_group(group.id, update).data

        joined = join(mine)
        assert (joined.version_id, joined.model_group_version_history_name) == (2, "mine")
        assert join(mine).version_id == 2
        with refused(409, "Conflict", "modelGroupVersionHistoryId"):
            join(other)
        with refused(400, "InvalidParameter", "modelGroupVersionHistoryId: there is no"):
            group_in(served, base, "ocid1.nobody")

    await story(words)


async def test_a_number_is_given_once_also_after_its_group_is_deleted(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        identifier = history(served).data.id
        served.client.delete_model_group(group_in(served, base, identifier).id)
        assert group_in(served, base, identifier).version_id == 2

    await story(words)


async def test_groups_that_are_created_at_the_same_time_have_numbers_of_their_own(
    story: Story,
) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        identifier = history(served).data.id
        source = group_in(served, base, identifier)
        clone = m.CloneModelGroupDetails(
            **OWNER,
            model_group_clone_source_details=m.CloneCreateFromModelGroupVersionHistoryDetails(
                source_id=identifier
            ),
        )

        def create(number: int) -> int:
            if number % 2:
                return int(group_in(served, base, identifier).version_id)
            return int(served.client.create_model_group(clone).data.version_id)

        with ThreadPoolExecutor(8) as pool:
            numbers = sorted(pool.map(create, range(24)))
        assert (source.version_id, numbers) == (1, list(range(2, 26)))
        latest = served.client.get_model_group_version_history(identifier).data
        newest = served.client.get_model_group(latest.latest_model_group_id).data
        assert newest.version_id == 25

    await story(words)
