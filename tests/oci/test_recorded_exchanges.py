"""Every request that the official client was once recorded with is answered as it expects.

Ids of the recording stand for ids of this server: they are replaced as the answers tell them.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import Models
from tests.oci.served import Served, serving_store, zipped

RECORDS = json.loads(
    (Path(__file__).parents[1] / "conformance" / "oci_exchanges.json").read_text()
)["records"]

OTHERWISE = {
    "delete_mgvh": (409, "a history that has groups is not deleted"),
    "create_model_group_artifact stream": (204, "the same files again are no other artifact"),
}
"""Where this server answers otherwise than the one that was recorded, and why."""

NEEDED_HEADERS = {"etag", "opc-work-request-id", "opc-request-id", "opc-next-page"}
"""Those that the clients act upon."""

PAGE = "list_call_get_all_results"


@dataclass
class Replay:
    """The recorded ids, and what they are here."""

    served: Served
    artifact: bytes
    ids: dict[str, str] = field(default_factory=dict)
    page: str | None = None
    """The page that the last list said is next."""

    def translated(self, text: str) -> str:
        for recorded, ours in self.ids.items():
            text = text.replace(recorded, ours)
        return text

    def send(self, http: httpx.Client, label: str, exchange: Any) -> None:
        asked, expected = exchange["request"], exchange["response"]
        path = self.translated(asked["path"])
        if label.startswith(PAGE) and "&page=" in path:
            path = path.partition("&page=")[0] + f"&page={self.page}"
        headers = {
            name: asked["headers"][name]
            for name in ("content-type", "opc-retry-token", "opc-request-id", "if-match", "range")
            if name in asked["headers"]
        }
        if headers.get("if-match") == "e1":
            headers["if-match"] = http.get(path).headers["etag"]
        answer = http.request(asked["method"], path, headers=headers, content=self.body(asked))
        self.compare(label, answer, expected)

    def body(self, asked: Any) -> bytes | None:
        match asked["body"]:
            case None:
                return None
            case {"__bytes__": _}:
                return self.artifact
            case body:
                return self.translated(json.dumps(body)).encode()

    def compare(self, label: str, answer: httpx.Response, expected: Any) -> None:
        status, _ = OTHERWISE.get(label, (expected["status"], ""))
        assert answer.status_code // 100 == status // 100, (label, answer.text)
        for header in NEEDED_HEADERS & expected["headers"].keys():
            assert header in answer.headers or label in OTHERWISE, (label, header)
        self.page = answer.headers.get("opc-next-page")
        recorded = expected["body"]
        if status >= 400:
            wanted = recorded["code"] if label not in OTHERWISE else "Conflict"
            assert (label, answer.json()["code"]) == (label, wanted)
        elif isinstance(recorded, dict | list) and "__bytes__" not in recorded:
            self.learn(label, recorded, answer.json())
        if work := expected["headers"].get("opc-work-request-id"):
            self.ids[work] = answer.headers.get("opc-work-request-id", "")
            self.served.done(answer) if self.ids[work] else None

    def learn(self, label: str, recorded: Any, ours: Any) -> None:
        """Whatever the recorded answer has, ours has; and an id there is an id here."""
        if isinstance(recorded, list):
            assert len(ours) >= min(1, len(recorded)), label
            for theirs, here in zip(recorded[:1], ours[:1], strict=True):
                assert theirs.keys() <= here.keys(), (label, theirs.keys() - here.keys())
            return
        assert recorded.keys() <= ours.keys(), (label, recorded.keys() - ours.keys())
        if "id" in recorded:
            self.ids.setdefault(recorded["id"], ours["id"])


async def test_every_recorded_request_is_answered_as_the_official_client_expects(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    async with serving_store(tmp_path, oci_config) as served:

        def replay() -> None:
            told = Replay(served, zipped(models.adapter("artifact")))
            names = {"base": models.base} | {
                f"ada{n}": models.adapter(f"ada{n}") for n in (1, 2, 3)
            }
            for name, folder in names.items():
                told.ids[f"ocid1.datasciencemodel.oc1.local.{name}"] = served.model(folder)
            with httpx.Client(base_url=served.url) as http:
                for record in RECORDS:
                    for exchange in record["exchanges"]:
                        told.send(http, record["label"], exchange)

        await asyncio.to_thread(replay)
