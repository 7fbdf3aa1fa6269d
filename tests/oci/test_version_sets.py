"""Sets of model versions through the official client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import oci
from oci.data_science import models as m

from tests.oci.conftest import Story
from tests.oci.served import COMPARTMENT, OWNER, PROJECT, Served, refused

ELSEWHERE = "ocid1.compartment.oc1..elsewhere"


def create(served: Served, name: str = "set", **fields: Any) -> str:
    details = m.CreateModelVersionSetDetails(**OWNER, name=name, **fields)
    return str(served.client.create_model_version_set(details).data.id)


def version(served: Served, versions: str, **fields: Any) -> Any:
    details = m.CreateModelDetails(**OWNER, model_version_set_id=versions, **fields)
    return served.client.create_model(details).data


def listed(served: Served, compartment: str = COMPARTMENT, **asked: Any) -> list[str]:
    return [each.name for each in served.client.list_model_version_sets(compartment, **asked).data]


async def test_a_set_is_shown_as_it_was_created_and_updated(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        versions = create(served, "mine", description="d", freeform_tags={"x": "1"})
        found = served.client.get_model_version_set(versions).data
        assert (found.name, found.description, found.category) == ("mine", "d", "USER")
        assert found.lifecycle_state == "ACTIVE"
        assert (found.freeform_tags, found.project_id) == ({"x": "1"}, PROJECT)
        details = m.UpdateModelVersionSetDetails(description="e")
        changed = served.client.update_model_version_set(versions, details).data
        assert (changed.name, changed.description) == ("mine", "e")
        assert changed.freeform_tags == {"x": "1"}

    await story(words)


async def test_sets_are_listed_by_their_names(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        for name in ("b", "a", "c"):
            create(served, name)
        assert listed(served, sort_by="name", sort_order="ASC") == ["a", "b", "c"]
        assert listed(served, sort_by="name") == ["c", "b", "a"]
        assert listed(served) == ["c", "a", "b"]
        assert listed(served, name="b") == ["b"]
        assert listed(served, category="SERVICE") == []
        pages = oci.pagination.list_call_get_all_results(
            served.client.list_model_version_sets, COMPARTMENT, limit=1, sort_by="name"
        )
        assert [each.name for each in pages.data] == ["c", "b", "a"]

    await story(words)


async def test_versions_are_numbered_as_they_come(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        versions = create(served, "mine")
        first = version(served, versions, version_label="old")
        assert (first.version_id, first.model_version_set_name) == (1, "mine")
        assert first.version_label == "old"
        details = m.UpdateModelDetails(model_version_set_id=versions, version_label="new")
        joined = served.client.update_model(adapter, details).data
        assert (joined.version_id, joined.version_label) == (2, "new")
        served.client.delete_model(adapter)
        assert version(served, versions).version_id == 3

    await story(words)


async def test_versions_that_come_at_once_have_different_numbers(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        versions = create(served)
        with ThreadPoolExecutor(8) as threads:
            made = threads.map(lambda _: version(served, versions), range(16))
            assert sorted(each.version_id for each in made) == list(range(1, 17))

    await story(words)


async def test_a_model_joins_one_set_only(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        one, other = create(served, "one"), create(served, "other")
        model = version(served, one)
        again = served.client.update_model(
            model.id, m.UpdateModelDetails(model_version_set_id=one)
        ).data
        assert again.version_id == 1
        with refused(409, "Conflict", f"is in {one}"):
            served.client.update_model(model.id, m.UpdateModelDetails(model_version_set_id=other))

    await story(words)


async def test_a_set_with_models_is_deleted_only_together_with_them(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        versions = create(served)
        join = m.UpdateModelDetails(model_version_set_id=versions)
        client.update_model(adapter, join)
        with refused(409, "Conflict", f"has {adapter}; delete its models first"):
            client.delete_model_version_set(versions)
        group = served.group(base, {"k": adapter})
        with refused(409, "Conflict", group):
            client.delete_model_version_set(versions, is_delete_related_models=True)
        assert client.get_model(adapter).data.model_version_set_id == versions
        client.delete_model_group(group)
        client.delete_model_version_set(versions, is_delete_related_models=True)
        for gone in (
            lambda: client.get_model(adapter),
            lambda: client.get_model_version_set(versions),
        ):
            with refused(404, "NotAuthorizedOrNotFound", "there is no model"):
                gone()

    await story(words)


async def test_an_empty_set_is_deleted_and_moved_with_the_etag_that_was_read(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        versions = create(served)
        read = client.get_model_version_set(versions).headers["etag"]
        move = m.ChangeModelVersionSetCompartmentDetails(compartment_id=ELSEWHERE)
        client.change_model_version_set_compartment(versions, move, if_match=read)
        assert (listed(served), listed(served, ELSEWHERE)) == ([], ["set"])
        with refused(412, "NoEtagMatch", "read it again"):
            client.delete_model_version_set(versions, if_match=read)
        client.delete_model_version_set(versions)
        assert listed(served, ELSEWHERE) == []

    await story(words)
