"""The tables of docs/configuration.md, made from the settings: `python -m stackserve.options`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from stackserve.engine_settings import EngineSettings
from stackserve.runtime_settings import (
    BatchingSettings,
    RuntimeGroupSettings,
    RuntimeMemberSettings,
    WorkerSettings,
)
from stackserve.server_settings import (
    AuthSettings,
    BearerKeySettings,
    PublicKeySettings,
    Section,
    ServerSettings,
)
from stackserve.settings import (
    AliasSettings,
    BaseSettings,
    GroupSettings,
    MemberSettings,
)

SECTIONS: dict[str, type[Section]] = {
    "server": ServerSettings,
    "server.auth": AuthSettings,
    "server.auth.public_keys[]": PublicKeySettings,
    "server.auth.bearer_keys[]": BearerKeySettings,
    "groups[]": GroupSettings,
    "groups[].base": BaseSettings,
    "groups[].members[]": MemberSettings,
    "groups[].aliases[]": AliasSettings,
    "groups[].engine": EngineSettings,
    "groups[] of kind homogeneous or heterogeneous": RuntimeGroupSettings,
    "groups[].members[] of those": RuntimeMemberSettings,
    "groups[].batching and groups[].members[].batching": BatchingSettings,
    "groups[].workers.<runtime>": WorkerSettings,
}


def reference() -> str:
    """The tables of docs/configuration.md: every option of every section."""
    return "\n".join(
        f"### `{name}`\n\n"
        "| option | allowed | default | meaning |\n|---|---|---|---|\n"
        + "".join(f"| {' | '.join(row)} |\n" for row in _rows(section))
        for name, section in SECTIONS.items()
    )


def _rows(section: type[Section]) -> Iterator[tuple[str, str, str, str]]:
    schema = section.model_json_schema()
    for name, option in schema["properties"].items():
        default = "required" if name in schema.get("required", ()) else _default(option)
        yield f"`{name}`", _allowed(option), default, section.model_fields[name].description or ""


def _default(option: Mapping[str, Any]) -> str:
    default = option.get("default")
    if default is None:
        return ""
    return "`{}`" if "$ref" in option else f"`{json.dumps(default).strip(chr(34))}`"


def _allowed(option: Mapping[str, Any]) -> str:
    if "$ref" in option:
        return "a section"
    if "const" in option:
        return f"`{option['const']}`"
    if "enum" in option:
        return ", ".join(f"`{value}`" for value in option["enum"])
    if "anyOf" in option:  # with null, which is the default
        return " or ".join(_allowed(each) for each in option["anyOf"] if each != {"type": "null"})
    return TYPE_NAMES[option["type"]] + "".join(
        f", {words} {option[bound]}" for bound, words in BOUNDS.items() if bound in option
    )


TYPE_NAMES = {"integer": "an integer", "number": "a number", "boolean": "`true`, `false`",
              "string": "a text", "array": "a list", "object": "a mapping"}  # fmt: skip
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "over", "maximum": "at most"}


if __name__ == "__main__":
    sys.stdout.write(reference())
