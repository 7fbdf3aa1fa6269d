"""Reading a group: what its version depends on, and what a bad adapter or base does to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stackserve.adapters import validate_source
from stackserve.control.groups import read_group
from stackserve.control.launch import engine_options
from stackserve.errors import ArtifactRejected
from stackserve.settings import BaseSettings, GroupSettings, MemberSettings
from tests.conftest import Models, read
from tests.running import running
from tests.tiny_models import write_base


def changed(settings: GroupSettings, **update: Any) -> GroupSettings:
    return settings.model_copy(update=update)


def test_an_equal_group_has_an_equal_version(models: Models) -> None:
    group = models.group(members=("a", "b"))
    assert read(group).version == read(models.group(members=("a", "b"))).version


def test_the_version_does_not_depend_on_where_the_files_are(models: Models, tmp_path: Path) -> None:
    group = models.group(members=("a",))
    link = tmp_path / "elsewhere"
    link.symlink_to(models.base)
    moved = changed(group, base=BaseSettings(path=str(link)))
    assert read(moved).version == read(group).version


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m.group("h"), id="name"),
        pytest.param(lambda m: m.group(key="root"), id="base key"),
        pytest.param(lambda m: m.group(members=()), id="fewer members"),
        pytest.param(lambda m: m.group(members=("a", "b")), id="more members"),
        pytest.param(lambda m: m.group(max_rank=8), id="engine"),
        pytest.param(lambda m: m.group(start="never"), id="vllm_args"),
        pytest.param(
            lambda m: changed(
                m.group(), members=(MemberSettings(key="a", path=str(m.adapter("b"))),)
            ),
            id="adapter",
        ),
        pytest.param(
            lambda m: changed(
                m.group(), members=(MemberSettings(key="z", path=str(m.adapter("a"))),)
            ),
            id="key",
        ),
        pytest.param(
            lambda m: changed(
                m.group(),
                members=(MemberSettings(key="a", path=str(m.adapter("a")), model_id="ocid1.x"),),
            ),
            id="model id",
        ),
    ],
)
def test_any_change_of_content_changes_the_version(models: Models, change: Any) -> None:
    assert read(change(models)).version != read(models.group()).version


def test_another_base_changes_the_version(models: Models, tmp_path: Path) -> None:
    other = write_base(tmp_path / "other", {"rope_theta": 5e5})
    group = models.group()
    assert read(changed(group, base=BaseSettings(path=str(other)))).version != read(group).version


def test_a_bad_adapter_is_refused_and_the_others_stay(models: Models) -> None:
    group = models.group(members=("a", "b"))
    members = (group.members[0], MemberSettings(key="bad", path="/nowhere"), group.members[1])
    result = read(changed(group, members=members))
    assert [member.key for member in result.members] == ["a", "b"]
    (refused,) = result.refused
    assert (refused.key, refused.model_id, refused.code) == ("bad", "g/bad", "folder_missing")
    assert result.version == read(group).version


@pytest.mark.parametrize(("limit", "served"), [("auto", 1), (8, 1), (1, 0)])
def test_an_adapter_must_fit_the_configured_rank(models: Models, limit: Any, served: int) -> None:
    result = read(models.group(max_rank=limit))
    assert len(result.members) == served
    assert [refused.code for refused in result.refused] == ["rank_over_limit"] * (1 - served)


def test_a_bad_base_raises(models: Models, tmp_path: Path) -> None:
    group = changed(models.group(), base=BaseSettings(path=str(tmp_path)))
    with pytest.raises(ArtifactRejected) as caught:
        read(group)
    assert caught.value.code == "base_missing"


def test_a_base_alone_is_a_group(models: Models) -> None:
    assert read(models.group(members=())).members == ()


def with_composite(
    models: Models, weights: dict[str, float], members: tuple[str, ...] = ("a", "b"), **engine: Any
) -> GroupSettings:
    """A group of plain members and, before them, the composite `mix`."""
    group = models.group(members=members, **engine)
    mix = MemberSettings(key="mix", adapters=weights)
    return changed(group, members=(mix, *group.members))


def test_a_composite_is_read_after_its_parts_and_stays_where_it_is_written(models: Models) -> None:
    told: list[tuple[int, int]] = []
    group = read_group(
        with_composite(models, {"a": 0.5, "b": -1}),
        Path,
        validate_source,
        lambda done, total: told.append((done, total)),
    )
    assert [member.key for member in group.members] == ["mix", "a", "b"]
    mix = group.members[0]
    assert (mix.model_id, mix.adapter.rank) == ("g/mix", 4)
    assert mix.adapter.digest not in {member.adapter.digest for member in group.members[1:]}
    assert told == [(0, 3), (1, 3), (2, 3)]


def test_the_version_depends_on_the_weights_and_not_on_their_order(models: Models) -> None:
    version = read(with_composite(models, {"a": 0.5, "b": 1})).version
    assert read(with_composite(models, {"b": 1, "a": 0.5})).version == version
    assert read(with_composite(models, {"a": 0.6, "b": 1})).version != version
    assert read(with_composite(models, {"a": 0.5})).version != version


def test_the_slots_have_room_for_the_composites_rank(models: Models) -> None:
    parts = ("a", "b", "c", "d", "e")
    assert engine_options(read(models.group(members=parts)))["max_lora_rank"] == 8
    group = read(with_composite(models, dict.fromkeys(parts, 1.0), parts))
    assert engine_options(group)["max_lora_rank"] == 16


def test_a_composite_over_the_configured_rank_is_refused_alone(models: Models) -> None:
    parts = ("a", "b", "c", "d", "e")
    group = read(with_composite(models, dict.fromkeys(parts, 1.0), parts, max_rank=8))
    assert [member.key for member in group.members] == list(parts)
    assert [(r.key, r.code) for r in group.refused] == [("mix", "rank_over_limit")]


def test_a_refused_part_refuses_its_composite_by_key_code_and_reason(models: Models) -> None:
    group = with_composite(models, {"a": 1, "bad": 1})
    bad = MemberSettings(key="bad", path="/nowhere")
    result = read(changed(group, members=(*group.members, bad)))
    assert [member.key for member in result.members] == ["a", "b"]
    mix, refused = result.refused
    assert (mix.key, mix.code, refused.key) == ("mix", "part_refused", "bad")
    assert mix.message == f"Its part bad is refused (folder_missing): {refused.message}"


async def test_a_composite_is_listed_and_answers_like_any_member(models: Models) -> None:
    settings = with_composite(models, {"a": 0.5, "b": 1})
    digest = read(settings).members[0].adapter.digest
    async with running(settings) as served:
        _, listed = await served.json("/v1/models")
        assert [card["id"] for card in listed["data"]] == ["base", "mix", "a", "b"]
        assert listed["data"][1]["adapter_sha256"] == digest
        assert listed["data"][1]["parent"] == "base"
        async with served.chat("hello", model="g/mix") as answer:
            assert answer.status == 200
            assert answer.headers["x-stackserve-adapter-sha256"] == digest
