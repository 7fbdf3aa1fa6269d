"""Reading a group: what its version depends on, and what a bad adapter or base does to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stackserve.errors import ArtifactRejected
from stackserve.settings import BaseSettings, GroupSettings, MemberSettings
from tests.conftest import Models, read
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
