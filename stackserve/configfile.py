"""Reads a configuration file into `Settings`, and says exactly what is wrong with one.

Every message has the form `FILE:LINE: KEY: what is wrong; what is allowed`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stackserve.errors import ArtifactRejected, ConfigError
from stackserve.settings import GROUPS, Settings

Location = tuple[int | str, ...]

UNREADABLE = (ValueError, KeyError, AttributeError, TypeError)
"""What PyYAML lets through for a value of a form without a meaning, such as the date 2024-13-01."""

MAX_FILE_BYTES = 8 * 2**20


COMMAND_LINE = Path("--set")
"""Stands for the file where there is none."""


def load_settings(path: Path | None, overrides: Sequence[str] = ()) -> Settings:
    """Read and validate a YAML file; `overrides` are `a.b.0.c=value` and win over the file. Without a
    file, what is deployed in the store is served.

    Raises ConfigError with one line for each mistake.
    """
    document: dict[str, Any] = {"server": {"store": True}}
    lines: dict[Location, int] = {}
    if path is not None:
        document, lines = _read(path)
    path = path or COMMAND_LINE
    for override in overrides:
        _apply(document, override)
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, lines, error.errors()))) from None


def resolve_path(written: str, config_file: Path) -> Path:
    """A path as written in a configuration file: `~` is the home, relative is to the file."""
    try:
        return (config_file.absolute().parent / Path(written).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, a NUL
        raise ArtifactRejected(
            "folder_missing", f"{written!r} is not a path: {error}; give the path of a folder"
        ) from None


class _Loader(yaml.SafeLoader):
    """YAML without repeated keys, of which the second would silently win, and without aliases, with
    which a few lines can mean a billion values.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not supported; write the value out",
                problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int) and key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key}: this key is written twice; keep one",
                    problem_mark=key_node.start_mark,
                )
            seen.add(key if isinstance(key, str | int) else id(key_node))
        return super().construct_mapping(node, deep=deep)


def _read(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes; split it up")
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        document = loader.construct_document(node) if node is not None else None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except yaml.YAMLError as error:
        raise ConfigError(_explain_yaml(path, error)) from None
    except UNREADABLE as error:
        raise ConfigError(f"{path}: a value cannot be read: {error}; quote it") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected a mapping with the key `groups`")
    assert node is not None  # it made a mapping
    return document, dict(_line_numbers(node, ()))


def _explain_yaml(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"{path}:{mark.line + 1}: {problem}" if mark else f"{path}: {problem}"


def _line_numbers(node: yaml.Node, at: Location) -> Iterator[tuple[Location, int]]:
    yield at, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _line_numbers(value, (*at, key.value))
            yield (*at, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _line_numbers(value, (*at, index))


def _apply(document: dict[str, Any], override: str) -> None:
    """Set one value of the document, for instance `groups.0.engine.dtype=float32`."""
    key, equals, value = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: write it as key=value, for instance server.port=9000")
    place: Any = document
    try:
        for part in parts[:-1]:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        last: Any = int(parts[-1]) if isinstance(place, list) else parts[-1]
        place[last] = _value(override, value)
    except (IndexError, ValueError, TypeError, AttributeError):
        raise ConfigError(f"--set {override}: there is no {key} in the file") from None


def _value(override: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, *UNREADABLE):
        raise ConfigError(f"--set {override}: the value is not valid YAML; quote it") from None


def _explain(
    path: Path, lines: Mapping[Location, int], errors: Sequence[ErrorDetails]
) -> Iterator[str]:
    locations = {error["loc"] for error in errors}
    for error in errors:
        location = error["loc"]
        if any(other != location and other[: len(location)] == location for other in locations):
            continue  # a consequence of a mistake further inside
        place = _written(location)
        line = next((lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in lines), 1)
        yield f"{path}:{line}: {_problem(location, error)}"


def _written(location: Location) -> Location:
    """The place as it is written in the file, without the tag of a group's kind."""
    return tuple(part for part in location if part not in GROUPS)


def _problem(location: Location, error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in _written(location))
    match error["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; {_allowed_keys(location)}"
        case "missing":
            return f"{key}: is required"
        case _ if location[-1] == "sha256":  # what was written may be the key itself
            return f"{key}: should be the SHA-256 of the key, 64 of 0-9 a-f"
        case other:
            wanted = IN_YAML.get(other, error["msg"].removeprefix("Input ").removeprefix("String "))
            return f"{key}: {_shown(error['input'])} is not allowed: {wanted}"


IN_YAML = {
    "tuple_type": "should be a list",
    "model_type": "should be a mapping",
    "too_short": "should have at least one item",
}
"""Where pydantic's words would name a Python type."""


def _shown(value: object) -> str:
    text = "an empty value" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _allowed_keys(location: Location) -> str:
    section = _section_at(location[:-1])
    allowed = sorted(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}allowed: {', '.join(allowed)}"


def _section_at(location: Location) -> type[BaseModel]:
    section: type[BaseModel] = Settings
    for part in location:
        if isinstance(part, str) and part in GROUPS:
            section = GROUPS[part]
        elif isinstance(part, str) and part in section.model_fields:
            section = _model_in(section.model_fields[part].annotation) or section
    return section


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, dict, Union, UnionType, Annotated):
        return next(filter(None, map(_model_in, get_args(annotation))), None)
    return None
