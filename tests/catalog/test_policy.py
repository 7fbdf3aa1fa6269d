"""What a group's custom metadata tell stackserve."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stackserve.catalog.policy import ENGINE, TRAFFIC, environment_of, read_engine, read_traffic
from stackserve.errors import InvalidParameter


def metadata(key: str, value: Any) -> list[dict[str, Any]]:
    text = value if isinstance(value, str) else json.dumps(value)
    return [{"key": "MODEL_GPU_COUNT", "value": "1"}, {"key": key, "value": text}]


def test_a_group_that_says_nothing_has_the_defaults() -> None:
    assert read_traffic([], ["a"]).members == {}
    assert read_engine([]) == read_engine([{"key": ENGINE}]) == read_engine(metadata(ENGINE, "{}"))


def test_a_member_has_its_class_and_share() -> None:
    terms = {"members": {"a": {"class": "pinned", "share": 2}, "b": {}}}
    members = read_traffic(metadata(TRAFFIC, terms), ["a", "b", "c"]).members
    assert (members["a"].residency, members["a"].share) == ("pinned", 2)
    assert (members["b"].residency, members["b"].share) == ("warm", 1)


def test_the_engine_has_the_settings_of_the_group() -> None:
    assert read_engine(metadata(ENGINE, {"max_num_seqs": 3})).max_num_seqs == 3


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"members": {"z": {}}}, "members.z: no member of the group has the key z"),
        ({"members": {"a": {"class": "hot"}}}, "members.a.class"),
        ({"members": {"a": {"share": 0}}}, "members.a.share"),
        ({"members": {"a": {"share": -1}}}, "members.a.share"),
        ({"members": {"a": {"share": "2"}}}, "members.a.share"),
        ('{"members": {"a": {"share": NaN}}}', "members.a.share"),
        ({"members": {"a": {"weight": 1}}}, "members.a.weight"),
        ({"members": {"a" * 33: {}}}, f"members.{'a' * 33}"),
        ({"aliases": {"z": {"members": {"nobody": 1}}}}, "aliases.z: no member of the group"),
        ({"aliases": {"z": {"members": {}}}}, "aliases.z.members"),
        ("pinned", "Invalid JSON"),
        ("[]", "object"),
        ("[" * 16_000, "Invalid JSON"),
    ],
)
def test_traffic_that_makes_no_sense_is_refused_by_its_field(value: Any, sentence: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        read_traffic(metadata(TRAFFIC, value), ["a"])
    place = "modelGroupDetails.customMetadataList: stackserve.traffic: "
    assert caught.value.message.startswith(place)
    assert sentence in caught.value.message


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"max_num_seqs": "3"}, "max_num_seqs"),
        ({"max_numseqs": 3}, "max_numseqs"),
        ("3", "object"),
    ],
)
def test_engine_settings_that_do_not_exist_are_refused_by_their_field(
    value: Any, sentence: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        read_engine(metadata(ENGINE, value))
    assert caught.value.message.startswith(
        "modelGroupDetails.customMetadataList: stackserve.engine: "
    )
    assert sentence in caught.value.message


def test_a_runtime_is_given_the_metadata_as_they_came() -> None:
    given = metadata("x", "1")
    assert json.loads(environment_of(given)) == given
