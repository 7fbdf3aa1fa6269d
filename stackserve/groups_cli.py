"""The commands on a running server's store: `stackserve model | group | deploy | update | …`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from stackserve.client import COMPARTMENT, ApiError, Client, Group, Work

URL, TOKEN, SCOPE = "STACKSERVE_URL", "STACKSERVE_TOKEN", "STACKSERVE_COMPARTMENT"

Run = Callable[[Client, argparse.Namespace], Any]


def add_commands(commands: Any) -> None:
    """Add them to the command line's parser."""
    model = _family(commands, "model", "models of the store")
    add = _command(model, "add", "upload a folder as a model", add_model)
    add.add_argument("folder", type=Path)
    add.add_argument("--name", help="by default the folder's name")
    _command(model, "list", "list models", lambda client, _: client.models())
    remove = _command(model, "rm", "delete a model", lambda c, p: c.remove_model(p.model))
    remove.add_argument("model")
    _add_groups(_family(commands, "group", "model groups of the store"))
    _add_deployments(commands)


def _add_groups(group: Any) -> None:
    create = _command(group, "create", "make a group of a base and adapters", create_group)
    create.add_argument("name")
    create.add_argument("--base", required=True, metavar="MODEL")
    create.add_argument("--set", action="append", default=[], dest="metadata", metavar="KEY=VALUE",
                        help="custom metadata, such as stackserve.traffic")  # fmt: skip
    create.add_argument("--dry-run", action="store_true", help="say what is wrong, and the cost")
    create.add_argument(
        "--member", action="append", default=[], dest="members", metavar="KEY=MODEL"
    )
    clone = _command(group, "clone", "make the next version of a group", clone_group)
    clone.add_argument("group")
    clone.add_argument("--name")
    clone.add_argument("--remove", action="append", default=[], metavar="KEY")
    clone.add_argument("--insert", action="append", default=[], dest="members", metavar="KEY=MODEL")
    _command(group, "list", "list groups", lambda client, _: client.groups())
    show = _command(group, "show", "show a group", lambda c, p: c.group(p.group))
    show.add_argument("group")
    diff = _command(group, "diff", "say how two groups differ", diff_groups)
    diff.add_argument("old")
    diff.add_argument("new")


def _add_deployments(commands: Any) -> None:
    deploy = _command(commands, "deploy", "serve a group", deploy_group)
    deploy.add_argument("group")
    deploy.add_argument("--name", help="by default the group's name")
    deploy.add_argument("--option", action="append", default=[], metavar="NAME=VALUE",
                        help="an option of the engine, such as max_model_len=4096")  # fmt: skip
    update = _command(commands, "update", "serve another group instead", update_deployment)
    update.add_argument("deployment")
    update.add_argument("group")
    update.add_argument("--zdt", action="store_true", help="by a new engine beside the old one")
    for name, meaning in (
        ("rollback", "serve again what was served before"),
        ("activate", "start a deployment again"),
        ("deactivate", "stop a deployment, and keep it"),
    ):
        act = _command(commands, name, meaning, _act(name))
        act.add_argument("deployment")
    undeploy = _command(commands, "undeploy", "stop a deployment and forget it", remove_deployment)
    undeploy.add_argument("deployment")
    status = _command(commands, "status", "show deployments, or the models of one", show_status)
    status.add_argument("deployment", nargs="?")


def _family(commands: Any, name: str, meaning: str) -> Any:
    family = commands.add_parser(name, help=meaning)
    return family.add_subparsers(required=True, metavar="COMMAND")


def _command(commands: Any, name: str, meaning: str, run: Run) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=meaning)
    command.add_argument("--url", default=os.environ.get(URL, "http://127.0.0.1:8000"),
                         help=f"the server's address; also ${URL}")  # fmt: skip
    command.add_argument(
        "--compartment",
        default=os.environ.get(SCOPE, COMPARTMENT),
        help=f"what is seen and made; also ${SCOPE}",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=lambda parsed: _run(run, parsed))
    return command


def _run(run: Run, parsed: argparse.Namespace) -> int:
    try:
        with Client(parsed.url, os.environ.get(TOKEN), parsed.compartment) as client:
            found = run(client, parsed)
    except httpx.HTTPError as error:
        raise ApiError(
            f"{parsed.url} does not answer ({error}); start it with `stackserve serve`, or give --url",
            code="unreachable",
        ) from None
    _print(found, as_json=parsed.json)
    return 0


# What the commands do


def add_model(client: Client, parsed: argparse.Namespace) -> Any:
    folder: Path = parsed.folder.resolve()
    if not folder.is_dir():
        raise ApiError(
            f"{parsed.folder} is not a folder; give that of a model", code="folder_missing"
        )
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(f"uploading {folder.name}", total=total)
        return client.add_model(
            parsed.name or folder.name, folder, lambda sent: bars.update(bar, completed=sent)
        )


def create_group(client: Client, parsed: argparse.Namespace) -> Any:
    return client.create_group(
        parsed.name,
        parsed.base,
        _pairs(parsed.members),
        metadata=_pairs(parsed.metadata),
        dry_run=parsed.dry_run,
    )


def clone_group(client: Client, parsed: argparse.Namespace) -> Any:
    return client.clone_group(
        parsed.group, insert=_pairs(parsed.members), remove=parsed.remove, name=parsed.name
    )


def diff_groups(client: Client, parsed: argparse.Namespace) -> Any:
    return difference(client.group(parsed.old), client.group(parsed.new))


def difference(old: Group, new: Group) -> list[dict[str, str]]:
    """By key, what an update from one group to the other would do."""
    rows = []
    for key in sorted(old.members.keys() | new.members.keys()):
        before, after = old.members.get(key, ""), new.members.get(key, "")
        if before != after:
            change = "changed" if before and after else "added" if after else "removed"
            rows.append({"key": key, "change": change, "old": before, "new": after})
    return rows


def deploy_group(client: Client, parsed: argparse.Namespace) -> Any:
    options = {f"STACKSERVE_{k.upper()}": v for k, v in _pairs(parsed.option).items()}
    group = client.group(parsed.group)
    name = parsed.name or group.name
    _follow(client, client.deploy(name, group.id, options))
    return client.deployment(name)


def update_deployment(client: Client, parsed: argparse.Namespace) -> Any:
    _follow(client, client.update(parsed.deployment, parsed.group, live=not parsed.zdt))
    return client.deployment(parsed.deployment)


def remove_deployment(client: Client, parsed: argparse.Namespace) -> Any:
    return _follow(client, client.remove_deployment(parsed.deployment))


def _act(action: str) -> Run:
    def act(client: Client, parsed: argparse.Namespace) -> Any:
        _follow(client, client.act(parsed.deployment, action))
        return client.deployment(parsed.deployment)

    return act


def show_status(client: Client, parsed: argparse.Namespace) -> Any:
    if parsed.deployment is None:
        return client.deployments()
    columns = ("inferenceKey", "state", "stateDetails", "displayName", "modelId")
    states = client.model_states(parsed.deployment)
    return [{column: each.get(column, "") for column in columns} for each in states]


def _follow(client: Client, work: Work) -> Work:
    """Wait for work, and show where it stands."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with console.status(work.operation) as shown:
        if console.is_terminal:
            return client.wait(work, shown.update)
        return client.wait(work, console.print)


def _pairs(written: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for each in written:
        key, equals, value = each.partition("=")
        if not (key and equals and value):
            raise ApiError(f"{each!r} should be KEY=VALUE", code="InvalidParameter")
        pairs[key] = value
    return pairs


def _print(found: Any, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(_plain(found), indent=2) + "\n")
    elif isinstance(found, list):
        _print_rows(_plain(found))
    elif found is not None:
        _print_record(_plain(found))


def _plain(found: Any) -> Any:
    if isinstance(found, list):
        return [_plain(each) for each in found]
    return asdict(found) if is_dataclass(found) and not isinstance(found, type) else found


def _print_rows(rows: list[Mapping[str, Any]]) -> None:
    """A line each, as long as it must be: ids and addresses are there to be copied."""
    if not rows:
        sys.stdout.write("nothing\n")
        return
    names = [
        name
        for name in rows[0]
        if not any(isinstance(row[name], Mapping) for row in rows)
        and any(row[name] not in (None, "") for row in rows)
    ]
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


def _print_record(record: Mapping[str, Any], indent: str = "") -> None:
    """A line for each value, and those of a mapping below its name."""
    width = max(map(len, record), default=0)
    for name, value in record.items():
        if isinstance(value, Mapping):
            sys.stdout.write(f"{indent}{name}\n")
            _print_record(value, f"{indent}  ")
        else:
            sys.stdout.write(f"{indent}{name.ljust(width)}  {_cell(value)}".rstrip() + "\n")


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return "" if value is None else str(value)
