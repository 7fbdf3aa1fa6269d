"""What every model of a configuration file has: its names."""

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
