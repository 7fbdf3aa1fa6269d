"""The members of a group: what every list keeps to, and what a clone's patches make of it."""

from __future__ import annotations

import pytest

from stackserve.catalog.members import (
    INSERT,
    REMOVE,
    MemberEntry,
    Patch,
    check_members,
    patched,
    with_base,
)
from stackserve.errors import InvalidParameter

BASE, A, B = MemberEntry("b", "base"), MemberEntry("a1", "a"), MemberEntry("a2", "b")


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([], "ms has 0 members; give 1 to 500"),
        ([MemberEntry(f"m{n}") for n in range(501)], "ms has 501 members"),
        ([A, MemberEntry("a9", "a")], "ms.1.inferenceKey is a, the key of a1 too"),
        ([A, MemberEntry("a1", "c")], "ms.1.modelId is a1, which is a member before"),
        ([MemberEntry("m", "x" * 33)], "ms.0.inferenceKey is 'x"),
        ([MemberEntry("m", "")], "ms.0.inferenceKey is ''"),
        ([MemberEntry("m", "a/b")], "ms.0.inferenceKey is 'a/b'"),
    ],
)
def test_a_list_that_no_group_can_have_is_refused_by_its_field(
    members: list[MemberEntry], sentence: str
) -> None:
    with pytest.raises(InvalidParameter, match=sentence):
        check_members(members, "ms")


def test_500_members_with_and_without_keys_are_a_group() -> None:
    check_members([BASE, *(MemberEntry(f"m{n}") for n in range(499))], "ms")


def test_the_base_is_added_when_it_is_not_a_member() -> None:
    assert with_base((A,), "b") == ((MemberEntry("b"), A), True)
    assert with_base((A, BASE), "b") == ((A, BASE), False)


def test_patches_are_done_one_after_the_other() -> None:
    again = MemberEntry("a1", "other")
    patches = [Patch(REMOVE, (A,), "i.0"), Patch(INSERT, (again, B), "i.1")]
    assert patched([BASE, A], patches, "b") == (BASE, again, B)


@pytest.mark.parametrize(
    ("patch", "sentence"),
    [
        (Patch(INSERT, (A,), "i.0"), "i.0.values.0.modelId: a1 is a member already"),
        (Patch(REMOVE, (B,), "i.0"), "i.0.values.0.modelId: a2 is not a member"),
        (Patch(REMOVE, (MemberEntry("a1", "z"),), "i.0"), "inferenceKey is z, and that of a1 is a"),
        (Patch(REMOVE, (MemberEntry("b"),), "i.0"), "b is the base of the group"),
    ],
)
def test_a_patch_that_makes_no_sense_is_refused_by_its_place(patch: Patch, sentence: str) -> None:
    with pytest.raises(InvalidParameter, match=sentence):
        patched([BASE, A], [patch], "b")


def test_a_member_is_named_by_its_place_in_the_request() -> None:
    inserted = MemberEntry("a9", "a", place="items.0.values.0")
    with pytest.raises(InvalidParameter, match=r"^items\.0\.values\.0\.inferenceKey is a, the key"):
        check_members([BASE, A, inserted], "ms")
