"""The configuration: what may be written in a YAML file, each option once, with its meaning.

`load_settings` is the door: it refuses unknown keys and bad values with file, line, key, value and
what is allowed. docs/configuration.md is made from these classes (`python -m stackserve.options`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from stackserve.engine_settings import EngineSettings
from stackserve.model_settings import Key, ModelSettings, NamedGroup
from stackserve.runtime_settings import RuntimeGroupSettings
from stackserve.server_settings import LocalPath, Section, ServerSettings

LEAST_WEIGHT, LARGEST_WEIGHT, MOST_PARTS = 0.001, 100.0, 32
"""Of a composite. Smaller weights change next to nothing, larger ones are slips of the keyboard."""

PartWeight = Annotated[float, Field(gt=0, le=1_000_000)]
"""Of an alias's member, relative to the others."""

MOST_SLOTS_BY_DEFAULT = 8

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The slot ranks that vLLM 0.32 can allocate."""


class BaseSettings(ModelSettings):
    key: Key = Field("base", description="Inference key of the base itself.")
    path: LocalPath = Field(
        description="Folder of the base model (config.json, safetensors, tokenizer), absolute or "
        "relative to this file; `demo:base` is the demo's."
    )


def _usable_weight(weight: float) -> float:
    if LEAST_WEIGHT <= abs(weight) <= LARGEST_WEIGHT:
        return weight
    raise PydanticCustomError(
        "weight",
        "should be {least} to {most}, or -{most} to -{least}",
        {"least": f"{LEAST_WEIGHT:g}", "most": f"{LARGEST_WEIGHT:g}"},
    )


Weight = Annotated[float, AfterValidator(_usable_weight)]


class MemberSettings(ModelSettings):
    """An adapter, or a composite of other members."""

    path: LocalPath | None = Field(
        None,
        description="Folder of the PEFT adapter, absolute or relative to this file; "
        "`demo:pirate` and so on are the demo's. Required unless `adapters` is given.",
    )
    adapters: dict[Key, Weight] | None = Field(
        None, min_length=1, max_length=MOST_PARTS,
        description="In place of `path`: keys of other members, each with its weight, which are "
        "served as one adapter, their weighted sum. Weights are 0.001 to 100, or -100 to -0.001.",
    )  # fmt: skip

    share: float = Field(
        1, gt=0, le=1000,
        description="Its part of the engine's work, relative to the others', while more is asked for "
        "than can be done.",
    )  # fmt: skip
    pinned: bool = Field(
        False, description="Always on the device. One slot at least must be left for the others."
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> MemberSettings:
        if (self.path is None) == (self.adapters is None):
            raise PydanticCustomError(
                "one_source",
                "give either `path`, the folder of an adapter, or `adapters`, keys of other "
                "members with their weights",
            )
        return self


class AliasSettings(Section):
    """A key that stands for members, each for its part of the requests."""

    key: Key = Field(description="The alias in `model`; no other model may have that name.")
    members: dict[Key, PartWeight] = Field(
        min_length=1, max_length=MOST_PARTS,
        description="Keys of members or the base, each with a weight over 0: its part of the requests "
        "is its weight among all of them.",
    )  # fmt: skip
    shadow: Key | None = Field(
        None,
        description="Key of a member or the base that gets a copy of each request, whose answer is "
        "thrown away.",
    )


def _known_kind(value: object) -> object:
    if value != "stacked":
        raise PydanticCustomError("kind", "should be stacked, homogeneous or heterogeneous")
    return value


class GroupSettings(NamedGroup):
    kind: Annotated[Literal["stacked"], BeforeValidator(_known_kind)] = Field(
        "stacked", description="One base and its LoRA adapters."
    )
    base: BaseSettings = Field(description="The model that the adapters were trained on.")
    members: tuple[MemberSettings, ...] = Field(
        (), strict=False, max_length=100_000, description="The adapters."
    )
    aliases: tuple[AliasSettings, ...] = Field(
        (), strict=False, max_length=500,
        description="Keys that spread their requests over several members.",
    )  # fmt: skip
    engine: EngineSettings = Field(EngineSettings(), description="How its engine runs.")

    @model_validator(mode="after")
    def _parts_are_plain_members(self) -> GroupSettings:
        composite = {member.key: member.adapters is not None for member in self.members}
        mistakes = [
            _no_model(
                ("members", m, "adapters", part),
                part,
                "it is a composite itself; name its parts"
                if part in composite
                else "no adapter of this group has that key",
            )
            for m, member in enumerate(self.members)
            for part in member.adapters or ()
            if composite.get(part, True)
        ]
        if mistakes:
            raise ValidationError.from_exception_data("GroupSettings", mistakes)
        return self

    @model_validator(mode="after")
    def _aliases_stand_for_models(self) -> GroupSettings:
        keys = {model.key for model in self.models}
        mistakes = [
            _no_model(("aliases", a, *place), key, "the group has no such member, nor its base")
            for a, alias in enumerate(self.aliases)
            for place, key in (
                *((("members", key), key) for key in alias.members),
                (("shadow",), alias.shadow),
            )
            if key is not None and key not in keys
        ]
        if mistakes:
            raise ValidationError.from_exception_data("GroupSettings", mistakes)
        return self

    @model_validator(mode="after")
    def _shares_are_of_vllm(self) -> GroupSettings:
        shared = [member.key for member in self.members if member.share != 1]
        if shared and self.engine.runtime != "vllm":
            raise PydanticCustomError(
                "of_vllm",
                "{key} has a share, and the runtime transformers gives all the same; leave it out",
                {"key": shared[0]},
            )
        return self

    @model_validator(mode="after")
    def _a_slot_is_left_unpinned(self) -> GroupSettings:
        pinned = sum(member.pinned for member in self.members)
        slots = self.adapter_slots
        if pinned and pinned >= slots:
            raise PydanticCustomError(
                "too_many_pinned",
                "{pinned} members are pinned, and there are {slots} adapter_slots; leave one slot "
                "unpinned for the others, or raise engine.adapter_slots",
                {"pinned": pinned, "slots": slots},
            )
        return self

    @property
    def adapter_slots(self) -> int:
        """Adapters on the device at once."""
        default = min(len(self.members), MOST_SLOTS_BY_DEFAULT)
        return self.engine.adapter_slots or max(default, self.engine.adapters_per_batch or 0)

    @property
    def models(self) -> tuple[ModelSettings, ...]:
        """The base, then the members."""
        return (self.base, *self.members)

    @property
    def names(self) -> Iterator[str]:
        """All that may be written in `model` for one of `models` or an alias."""
        for model in self.models:
            yield from self.names_of(model)
        for alias in self.aliases:
            yield from (alias.key, f"{self.name}/{alias.key}")


GROUPS: dict[str, type[GroupSettings | RuntimeGroupSettings]] = {
    "(stacked)": GroupSettings,
    "(runtime)": RuntimeGroupSettings,
}
"""By the tags that pydantic puts into the places of mistakes."""


def _tag(value: object) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "(runtime)" if kind in ("homogeneous", "heterogeneous") else "(stacked)"


AnyGroupSettings = Annotated[
    Annotated[GroupSettings, Tag("(stacked)")] | Annotated[RuntimeGroupSettings, Tag("(runtime)")],
    Discriminator(_tag),
]


class Settings(Section):
    server: ServerSettings = ServerSettings()
    groups: tuple[AnyGroupSettings, ...] = Field(
        strict=False, description="The model groups that this server serves."
    )

    @property
    def stacked(self) -> tuple[GroupSettings, ...]:
        return tuple(group for group in self.groups if isinstance(group, GroupSettings))

    @property
    def of_runtimes(self) -> tuple[RuntimeGroupSettings, ...]:
        return tuple(group for group in self.groups if isinstance(group, RuntimeGroupSettings))

    @model_validator(mode="before")
    @classmethod
    def _store_may_be_all(cls, value: Any) -> Any:
        server = value.get("server") if isinstance(value, dict) else None
        store = isinstance(server, dict) and server.get("store") is True
        return {"groups": (), **value} if store else value

    @model_validator(mode="after")
    def _serves_something(self) -> Settings:
        if not self.groups and not self.server.store:
            few = {"field_type": "Tuple", "min_length": 1, "actual_length": 0}
            mistake = InitErrorDetails(type="too_short", loc=("groups",), input=[], ctx=few)
            raise ValidationError.from_exception_data("Settings", [mistake])
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Settings:
        """One endpoint serves all groups, so a name in `model` must mean one thing."""
        group_names: dict[str, str] = {}
        models: dict[str, str] = {}
        mistakes: dict[Place, InitErrorDetails] = {}
        for place, name, owner in self._names():
            owners = group_names if place[-1] == "name" else models
            first = owners.setdefault(name, owner)
            if first != owner:
                mistakes.setdefault(place, _used_twice(place, name, first))
        if mistakes:
            raise ValidationError.from_exception_data("Settings", [*mistakes.values()])
        return self

    def _names(self) -> Iterator[tuple[Place, str, str]]:
        """Every name that is given: where it is written, the name, and what it is the name of."""
        for g, group in enumerate(self.groups):
            yield ("groups", g, "name"), group.name, f"groups.{g}"
            places: list[Place] = [("members", m) for m in range(len(group.members))]
            if isinstance(group, GroupSettings):
                places.insert(0, ("base",))
            for place, model in zip(places, group.models, strict=True):
                owner = ".".join(map(str, ("groups", g, *place)))
                yield ("groups", g, *place, "key"), model.key, owner
                yield ("groups", g, *place, "key"), f"{group.name}/{model.key}", owner
                yield ("groups", g, *place, "model_id"), group.model_id_of(model), owner
            if isinstance(group, GroupSettings):
                yield from _names_of_aliases(g, group)


def _names_of_aliases(g: int, group: GroupSettings) -> Iterator[tuple[Place, str, str]]:
    for a, alias in enumerate(group.aliases):
        for name in (alias.key, f"{group.name}/{alias.key}"):
            yield ("groups", g, "aliases", a, "key"), name, f"groups.{g}.aliases.{a}"


Place = tuple[int | str, ...]


def _no_model(place: Place, key: str, why: str) -> InitErrorDetails:
    problem = PydanticCustomError("no_model", "{why}", {"why": why})
    return InitErrorDetails(type=problem, loc=place, input=key)


def _used_twice(place: Place, name: str, first: str) -> InitErrorDetails:
    problem = PydanticCustomError("used_twice", "{first} has that name", {"first": first})
    return InitErrorDetails(type=problem, loc=place, input=name)
