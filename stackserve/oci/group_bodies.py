"""What clients send of model groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from stackserve.catalog.groups import MEMBERS, PATCHES, STACKED
from stackserve.catalog.members import MemberEntry, Patch
from stackserve.oci.wire import Described, Name, NewOfProject, Ocid, Text, Wire

NO_DETAILS = (
    "the oci CLI's plain `model-group create` does not send them: use "
    "create-model-group-create-model-group-details or create-model-group-clone-model-group-details"
)
Value = Annotated[str, StringConstraints(max_length=16_000)]


class CustomMetadata(Wire):
    key: Name
    value: Value | None = None
    description: Text | None = None
    category: Name | None = None


class GroupDetails(Wire):
    type: Literal["STACKED", "HOMOGENEOUS", "HETEROGENEOUS"]
    base_model_id: Ocid | None = None
    custom_metadata_list: list[CustomMetadata] | None = Field(None, max_length=64)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.type != STACKED and self.base_model_id is not None:
            raise ValueError(f"baseModelId is for STACKED groups, and this one is {self.type}")
        keys = [entry.key for entry in self.custom_metadata_list or ()]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"customMetadataList has the key {key} more than once")
        return self

    @property
    def metadata(self) -> tuple[dict[str, Any], ...]:
        entries = self.custom_metadata_list or ()
        return tuple(entry.model_dump(by_alias=True, exclude_unset=True) for entry in entries)


class MemberDetails(Wire):
    model_id: Ocid
    inference_key: str | None = None

    def entry(self, place: str) -> MemberEntry:
        return MemberEntry(self.model_id, self.inference_key, self.unused, place)


class MemberEntries(Wire):
    member_model_details: list[MemberDetails]

    def entries(self) -> tuple[MemberEntry, ...]:
        return _entries(self.member_model_details, MEMBERS)


def _entries(members: Sequence[MemberDetails], place: str) -> tuple[MemberEntry, ...]:
    return tuple(each.entry(f"{place}.{number}") for number, each in enumerate(members))


class InHistory(Wire):
    model_group_version_history_id: Ocid | None = None
    version_label: Name | None = None

    def history_columns(self) -> dict[str, Any]:
        columns = {"history_id": self.model_group_version_history_id,
                   "version_label": self.version_label}  # fmt: skip
        return {column: value for column, value in columns.items() if value is not None}


class PatchItem(Wire):
    operation: Literal["INSERT", "REMOVE"]
    values: list[MemberDetails] = Field(min_length=1, max_length=500)


class PatchDetails(Wire):
    items: list[PatchItem] | None = None

    def patches(self) -> list[Patch]:
        return [
            Patch(
                item.operation,
                _entries(item.values, f"{PATCHES}.{number}.values"),
                f"{PATCHES}.{number}",
            )
            for number, item in enumerate(self.items or ())
        ]


class Modification(InHistory, Described):
    model_group_details: GroupDetails | None = None


class CloneSource(Wire):
    model_group_clone_source_type: Literal["MODEL_GROUP", "MODEL_GROUP_VERSION_HISTORY"]
    source_id: Ocid
    modify_model_group_details: Modification | None = None
    patch_model_group_member_model_details: PatchDetails | None = None


class NewGroupBody(InHistory, NewOfProject):
    create_type: Literal["CREATE", "CLONE"] = "CREATE"
    model_group_details: GroupDetails | None = None
    member_model_entries: MemberEntries | None = None
    model_group_clone_source_details: CloneSource | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.create_type == "CLONE":
            if self.model_group_clone_source_details is None:
                raise ValueError(
                    f"modelGroupCloneSourceDetails is required for CLONE; {NO_DETAILS}"
                )
        elif self.model_group_details is None or self.member_model_entries is None:
            missing = "memberModelEntries" if self.model_group_details else "modelGroupDetails"
            raise ValueError(f"{missing} is required for CREATE; {NO_DETAILS}")
        return self


class UpdatedGroup(InHistory, Described):
    @model_validator(mode="after")
    def _keeps_its_members(self) -> Self:
        for name in ("memberModelEntries", "modelGroupDetails"):
            if name in self.unused:
                raise ValueError(f"{name} of a group never change; clone it with patches")
        return self
