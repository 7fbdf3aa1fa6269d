"""What every group of a configuration file has, and every model: names."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from stackserve.server_settings import Section
from stackserve.types import KEY_PATTERN, MODEL_ID_PATTERN

Key = Annotated[str, StringConstraints(pattern=f"^{KEY_PATTERN.pattern}$")]
ModelId = Annotated[str, StringConstraints(pattern=f"^{MODEL_ID_PATTERN.pattern}$")]
GroupName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class ModelSettings(Section):
    """What a base and a member have in common: their names."""

    key: Key = Field(description="Inference key: 1 to 32 of A-Z a-z 0-9 . _ -")
    model_id: ModelId | None = Field(
        None, description="Its other name in `model`. By default `<group>/<key>`."
    )


class NamedGroup(Section):
    """What groups of all kinds have in common."""

    name: GroupName = Field(description="Name of the group: a-z 0-9 -, at most 63 characters.")

    def model_id_of(self, model: ModelSettings) -> str:
        """The other name of one of its models."""
        return model.model_id or f"{self.name}/{model.key}"

    def names_of(self, model: ModelSettings) -> tuple[str, str, str]:
        """All that a client may call one of its models."""
        return model.key, self.model_id_of(model), f"{self.name}/{model.key}"
