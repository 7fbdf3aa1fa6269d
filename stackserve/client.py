"""A Python client of the control plane: `with Client("http://127.0.0.1:8000") as client: …`.

Models, groups and deployments may be named by their id, or by their name while only one has it.
"""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from stackserve.errors import StackserveError

COMPARTMENT = "ocid1.compartment.oc1..local"
PROJECT = "ocid1.datascienceproject.oc1.local.local"
PREFIX = "/20190101"
LOOK_SECONDS = 0.2
PIECE = 1 << 20


class ApiError(StackserveError):
    """The server's answer to a request that it does not do; `code` is OCI's."""


@dataclass(frozen=True)
class Model:
    id: str
    name: str
    state: str
    kind: str | None
    size_bytes: int
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    id: str
    name: str
    type: str
    state: str
    version: int
    base: str | None
    members: Mapping[str, str] = field(default_factory=dict)
    """Models by inference key, or by their own id where they have none. Empty in lists."""


@dataclass(frozen=True)
class Deployment:
    id: str
    name: str
    state: str
    details: str
    group: str
    url: str


@dataclass(frozen=True)
class Work:
    """A work request."""

    id: str
    operation: str
    status: str
    percent: float

    @property
    def is_over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "CANCELED")


class Client:
    """One server's control plane, as far as one compartment goes. Every method raises ApiError, and httpx.HTTPError without an answer."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        token: str | None = None,
        compartment: str = COMPARTMENT,
    ) -> None:
        self._compartment = compartment
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url.rstrip("/") + PREFIX, headers=headers, timeout=600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    # Models

    def add_model(
        self, name: str, folder: Path, progress: Callable[[int], None] = lambda sent: None
    ) -> Model:
        """Upload a folder as a new model; `progress` is told the bytes that were sent."""
        created = self._post("/models", {**self._owner(), "displayName": name})
        try:
            content = _tar(folder, progress)
            self._ask("POST", f"/models/{created['id']}/artifact", content=content)
        except BaseException:
            self._ask("DELETE", f"/models/{created['id']}")
            raise
        return self.model(created["id"])

    def model(self, name: str) -> Model:
        return _model(self._one("/models", name))

    def models(self) -> list[Model]:
        return [_model(each) for each in self._all("/models")]

    def remove_model(self, name: str) -> None:
        self._ask("DELETE", f"/models/{self.model(name).id}")

    # Groups

    def create_group(
        self,
        name: str,
        base: str,
        members: Mapping[str, str],
        *,
        base_key: str = "base",
        metadata: Mapping[str, str] | None = None,
        dry_run: bool = False,
    ) -> Group | Mapping[str, Any]:
        """A stacked group of a base and adapters by inference key. A dry run returns what it finds."""
        base_id = self.model(base).id
        entries = [{"inferenceKey": base_key, "modelId": base_id}]
        entries += [{"inferenceKey": k, "modelId": self.model(m).id} for k, m in members.items()]
        custom = [{"key": key, "value": value} for key, value in (metadata or {}).items()]
        body = {
            **self._owner(),
            "createType": "CREATE",
            "displayName": name,
            "modelGroupDetails": {
                "type": "STACKED",
                "baseModelId": base_id,
                "customMetadataList": custom,
            },
            "memberModelEntries": {"memberModelDetails": entries},
        }
        headers = {"x-stackserve-dry-run": "true"} if dry_run else {}
        answer = self._ask("POST", "/modelGroups", json=body, headers=headers).json()
        return dict(answer) if dry_run else _group(answer)

    def clone_group(
        self,
        source: str,
        *,
        insert: Mapping[str, str],
        remove: Sequence[str],
        name: str | None = None,
    ) -> Group:
        """The next version of a group: adapters by key that come, and keys that go."""
        group = self.group(source)
        missing = [key for key in remove if key not in group.members]
        if missing:
            raise ApiError(
                f"group {group.name} has no member {missing[0]}", code="InvalidParameter"
            )
        coming = [{"inferenceKey": k, "modelId": self.model(m).id} for k, m in insert.items()]
        going = [{"inferenceKey": key, "modelId": group.members[key]} for key in remove]
        items = [
            {"operation": operation, "values": values}
            for operation, values in (("REMOVE", going), ("INSERT", coming))
            if values
        ]
        clone: dict[str, Any] = {
            "modelGroupCloneSourceType": "MODEL_GROUP",
            "sourceId": group.id,
            "patchModelGroupMemberModelDetails": {"items": items},
        }
        if name is not None:
            clone["modifyModelGroupDetails"] = {"displayName": name}
        body = {**self._owner(), "createType": "CLONE", "modelGroupCloneSourceDetails": clone}
        return _group(self._post("/modelGroups", body))

    def group(self, name: str) -> Group:
        return _group(self._one("/modelGroups", name))

    def groups(self) -> list[Group]:
        return [_group(each) for each in self._all("/modelGroups")]

    # Deployments

    def deploy(self, name: str, group: str, options: Mapping[str, str] | None = None) -> Work:
        """Serve a group; `options` are environment variables, such as STACKSERVE_MAX_MODEL_LEN."""
        configuration: dict[str, Any] = {
            "deploymentType": "MODEL_GROUP",
            "modelGroupConfigurationDetails": {"modelGroupId": self.group(group).id},
        }
        if options:
            configuration["environmentConfigurationDetails"] = {
                "environmentConfigurationType": "DEFAULT",
                "environmentVariables": dict(options),
            }
        body = {
            **self._owner(),
            "displayName": name,
            "modelDeploymentConfigurationDetails": configuration,
        }
        return self._work(self._ask("POST", "/modelDeployments", json=body))

    def update(self, deployment: str, group: str, *, live: bool = True) -> Work:
        """Serve another group: by the running engine, or by a new one beside it."""
        details = {
            "deploymentType": "MODEL_GROUP",
            "updateType": "LIVE" if live else "ZDT",
            "modelGroupConfigurationDetails": {"modelGroupId": self.group(group).id},
        }
        path = f"/modelDeployments/{self.deployment(deployment).id}"
        body = {"modelDeploymentConfigurationDetails": details}
        return self._work(self._ask("PUT", path, json=body))

    def act(self, deployment: str, action: str) -> Work:
        """`rollback`, `activate` or `deactivate`."""
        path = f"/modelDeployments/{self.deployment(deployment).id}/actions/{action}"
        return self._work(self._ask("POST", path))

    def remove_deployment(self, deployment: str) -> Work:
        return self._work(
            self._ask("DELETE", f"/modelDeployments/{self.deployment(deployment).id}")
        )

    def deployment(self, name: str) -> Deployment:
        return _deployment(self._one("/modelDeployments", name))

    def deployments(self) -> list[Deployment]:
        return [_deployment(each) for each in self._all("/modelDeployments")]

    def model_states(self, deployment: str) -> list[Mapping[str, Any]]:
        return self._all(f"/modelDeployments/{self.deployment(deployment).id}/models/modelState")

    # Work

    def wait(self, work: Work, report: Callable[[str], None] = lambda step: None) -> Work:
        """Until the work is over; `report` is told each new line of its log.

        Raises ApiError when it failed, with its reason.
        """
        told = 0
        while True:
            work = _work(self._ask("GET", f"/workRequests/{work.id}").json())
            for line in self._all(f"/workRequests/{work.id}/logs")[told:]:
                told += 1
                report(line["message"])
            if work.status == "FAILED":
                errors = self._all(f"/workRequests/{work.id}/errors")
                reason = "; ".join(each["message"] for each in errors)
                raise ApiError(reason or f"{work.operation} failed", code="work_failed")
            if work.is_over:
                return work
            time.sleep(LOOK_SECONDS)

    def _work(self, answer: httpx.Response) -> Work:
        identifier = answer.headers["opc-work-request-id"]
        return _work(self._ask("GET", f"/workRequests/{identifier}").json())

    # Requests

    def _one(self, path: str, name: str) -> dict[str, Any]:
        if not name.startswith("ocid1."):
            found = self._all(path, displayName=name)
            if len(found) != 1:
                what = "nothing has" if not found else f"{len(found)} have"
                raise ApiError(f"{path[1:]}: {what} the name {name}; give an id", code="NotFound")
            name = found[0]["id"]
        return dict(self._ask("GET", f"{path}/{name}").json())

    def _all(self, path: str, **filters: str) -> list[Any]:
        asked, found = {"compartmentId": self._compartment, **filters}, []
        while True:
            answer = self._ask("GET", path, params=asked)
            found += answer.json()
            if "opc-next-page" not in answer.headers:
                return found
            asked["page"] = answer.headers["opc-next-page"]

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._ask("POST", path, json=body).json())

    def _owner(self) -> dict[str, str]:
        return {"compartmentId": self._compartment, "projectId": PROJECT}

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        answer = self._http.request(method, path, **request)
        if answer.is_success:
            return answer
        try:
            told = answer.json()
            raise ApiError(str(told["message"]), code=str(told["code"]))
        except (ValueError, LookupError, TypeError):
            raise ApiError(
                f"{answer.url} answers {answer.status_code}; is this a stackserve with a store?"
            ) from None


def _tar(folder: Path, progress: Callable[[int], None]) -> Iterator[bytes]:
    """A folder as a tar file, piece by piece, so that it need not fit into memory or on the disk."""
    sent = 0
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
        entry.size = path.stat().st_size
        yield entry.tobuf(tarfile.PAX_FORMAT)
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
                sent += len(piece)
                progress(sent)
        yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _model(shown: Mapping[str, Any]) -> Model:
    ours = shown.get("x-stackserve", {})
    return Model(
        shown["id"],
        shown["displayName"],
        shown["lifecycleState"],
        ours.get("kind"),
        ours.get("sizeBytes", 0),
        ours.get("facts", {}),
    )


def _group(shown: Mapping[str, Any]) -> Group:
    details = shown["modelGroupDetails"]
    members = shown.get("memberModelEntries", {}).get("memberModelDetails", ())
    return Group(
        shown["id"],
        shown["displayName"],
        details["type"],
        shown["lifecycleState"],
        shown["versionId"],
        details.get("baseModelId"),
        {each.get("inferenceKey") or each["modelId"]: each["modelId"] for each in members},
    )


def _deployment(shown: Mapping[str, Any]) -> Deployment:
    configuration = shown["modelDeploymentConfigurationDetails"]
    wanted = configuration["modelGroupConfigurationDetails"]["modelGroupId"]
    return Deployment(
        shown["id"],
        shown["displayName"],
        shown["lifecycleState"],
        shown["lifecycleDetails"],
        shown.get("x-stackserve", {}).get("servedModelGroupId") or wanted,
        shown["modelDeploymentUrl"],
    )


def _work(shown: Mapping[str, Any]) -> Work:
    return Work(shown["id"], shown["operationType"], shown["status"], shown["percentComplete"])
