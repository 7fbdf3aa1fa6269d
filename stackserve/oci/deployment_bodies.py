"""What clients send of deployments."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from stackserve.catalog.deployments import UpdateType
from stackserve.oci.wire import Described, NewOfProject, Ocid, Wire

MOST_ENVIRONMENT_BYTES = 2048
VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,29}[A-Za-z0-9]")


def _environment(variables: dict[str, str]) -> dict[str, str]:
    """OCI's rules for environment variables."""
    for name, value in variables.items():
        if not VARIABLE.fullmatch(name):
            raise ValueError(
                f"{name[:64]!r} is no name for a variable; take 2 to 31 of A-Z a-z 0-9 _, from a "
                "letter to a letter or digit"
            )
        if not value:
            raise ValueError(f"{name} is empty; give it a value, or leave it out")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in variables.items())
    if size > MOST_ENVIRONMENT_BYTES:
        raise ValueError(
            f"together they have {size} bytes, over {MOST_ENVIRONMENT_BYTES}; put settings of the "
            "engine into the group's customMetadataList instead"
        )
    return variables


class Environment(Wire):
    environment_configuration_type: str | None = None
    environment_variables: Annotated[dict[str, str], AfterValidator(_environment)] = Field({})


class GroupChoice(Wire):
    model_group_id: Ocid


class Configuration(Wire):
    """Where it runs is stored and returned: it runs on the gateway's machine."""

    deployment_type: str = "MODEL_GROUP"
    model_group_configuration_details: GroupChoice | None = None
    environment_configuration_details: Environment | None = None

    @model_validator(mode="after")
    def _is_of_a_group(self) -> Self:
        if self.deployment_type != "MODEL_GROUP":
            raise ValueError(
                f"deploymentType {self.deployment_type} is not offered; put the model into a group "
                "and deploy that (MODEL_GROUP)"
            )
        return self

    def sent(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True, exclude_unset=True)


class NewConfiguration(Configuration):
    model_group_configuration_details: GroupChoice
    infrastructure_configuration_details: dict[str, Any] | None = None


class NewDeployment(NewOfProject):
    model_deployment_configuration_details: NewConfiguration

    @property
    def group_id(self) -> str:
        choice = self.model_deployment_configuration_details.model_group_configuration_details
        return choice.model_group_id

    @property
    def configuration(self) -> dict[str, Any]:
        return self.model_deployment_configuration_details.sent()


class UpdatedConfiguration(Configuration):
    update_type: Literal["LIVE", "ZDT"] | None = None


class UpdatedDeployment(Described):
    model_deployment_configuration_details: UpdatedConfiguration | None = None

    @property
    def group_id(self) -> str | None:
        details = self.model_deployment_configuration_details
        choice = details.model_group_configuration_details if details else None
        return choice.model_group_id if choice else None

    @property
    def update_type(self) -> UpdateType:
        details = self.model_deployment_configuration_details
        return UpdateType((details.update_type if details else None) or "ZDT")

    def merged_into(self, configuration: dict[str, Any]) -> dict[str, Any]:
        """The whole configuration after the update: a part that is not given stays."""
        details = self.model_deployment_configuration_details
        sent = details.sent() if details else {}
        sent.pop("updateType", None)
        return {**configuration, **sent}
