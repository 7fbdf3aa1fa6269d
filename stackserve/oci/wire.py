"""How resources look on the wire: what requests and answers have in common."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from stackserve.catalog.resources import now
from stackserve.store.tables import OfProject, Resource

KEPT = r"^[^\x00]*$"
"""PostgreSQL keeps no NUL in a text."""
Ocid = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=KEPT)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=KEPT)]
Text = Annotated[str, StringConstraints(max_length=4000, pattern=KEPT)]
FreeformTags = dict[
    Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=KEPT)], Text
]
DefinedTags = dict[Name, dict[str, Any]]


class Wire(BaseModel):
    """A part of a request. Fields that nothing here reads are kept, and returned as they came."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="allow", strict=True, frozen=True, protected_namespaces=()
    )

    @property
    def unused(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Described(Wire):
    """What a request may say of any resource."""

    display_name: Name | None = None
    description: Text | None = None
    freeform_tags: FreeformTags | None = Field(None, max_length=64)
    defined_tags: DefinedTags | None = Field(None, max_length=64)

    def changes(self) -> dict[str, Any]:
        """The columns of these fields, of those that were given."""
        given = self.model_fields_set & Described.model_fields.keys()
        return {name: value for name in given if (value := getattr(self, name)) is not None}

    def updates(self) -> dict[str, Any]:
        """The columns that an update with these fields changes."""
        return {**self.changes(), "unused": self.unused}


class NewResource(Described):
    compartment_id: Ocid

    def columns(self, name: str) -> dict[str, Any]:
        """The columns of these fields; `name` is the display name where none was given."""
        given = {"compartment_id": self.compartment_id, "unused": self.unused}
        return {"display_name": name, **given, **self.changes()}


class NewOfProject(NewResource):
    project_id: Ocid

    def columns(self, name: str) -> dict[str, Any]:
        return {**super().columns(f"{name}{now():%Y%m%d%H%M%S}"), "project_id": self.project_id}


class ChangeCompartment(Wire):
    compartment_id: Ocid


def rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def view(row: Resource) -> dict[str, Any]:
    """What the answers of all resources have in common."""
    return {
        **row.unused,
        "id": row.id,
        "compartmentId": row.compartment_id,
        **({"projectId": row.project_id} if isinstance(row, OfProject) else {}),
        "displayName": row.display_name,
        "description": row.description,
        "lifecycleState": row.lifecycle_state,
        "lifecycleDetails": row.lifecycle_details,
        "timeCreated": rfc3339(row.time_created),
        "timeUpdated": rfc3339(row.time_updated),
        "createdBy": row.created_by,
        "freeformTags": row.freeform_tags,
        "definedTags": row.defined_tags,
        "systemTags": {},
    }
