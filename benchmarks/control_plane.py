"""How long the control plane takes with large groups: `python -m benchmarks.control_plane [--demo]`.

Tiny adapters, or copies of one of the demo's with 240 tensors on the demo's base; SQLite on this machine's disk, the API called through its HTTP application in this
process. Prints the median of each operation and the most that it may be.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from stackserve.catalog.artifacts import Shelf
from stackserve.control.storefront import Store
from stackserve.demo.base import ensure_demo_base
from stackserve.demo.behaviours import BEHAVIOURS
from stackserve.oci.api import control_plane
from stackserve.oci.deployments import ThisGateway
from stackserve.routing.gate import Gate
from stackserve.routing.snapshot import GroupRoutes, Routes
from stackserve.store.archive import zip_of
from stackserve.store.artifacts import ArtifactStore
from stackserve.store.database import open_database
from stackserve.types import Target
from tests.tiny_models import Adapters, write_base

OWNER = {"compartmentId": "c", "projectId": "p"}
ROUNDS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=500)
    parser.add_argument("--demo", action="store_true", help="adapters of a real size; 1 GB of disk")
    parsed = parser.parse_args()
    members: int = parsed.members
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        database = open_database(f"sqlite:///{root}/stackserve.db")
        store = Store(database, Shelf(ArtifactStore(root / "artifacts")))
        gateway = ThisGateway("gateway", "http://here", lambda _: None)
        with TestClient(control_plane(store, gateway)) as client:
            sources = demo_models(root) if parsed.demo else tiny_models(root)
            measure_groups(client, sources, members)
        database.close()
    measure_routing(members)


def tiny_models(root: Path) -> Iterator[Path]:
    """A base, and then adapters of it without end."""
    write_base(root / "base")
    yield root / "base"
    for number in count():
        yield Adapters(root / f"a{number}").make({"base_model_name_or_path": f"a{number}"})


def demo_models(root: Path) -> Iterator[Path]:
    """The same in a real size; each adapter's config differs in a name, so that none is another's."""
    yield ensure_demo_base()
    folder = root / "adapter"
    shutil.copytree(BEHAVIOURS[0].adapter, folder)
    config = folder / "adapter_config.json"
    config.chmod(0o600)
    for number in count():
        content = json.loads(config.read_bytes()) | {"base_model_name_or_path": f"a{number}"}
        config.write_text(json.dumps(content))
        yield folder


def measure_groups(client: TestClient, sources: Iterator[Path], members: int) -> None:
    """Create, get and list a group of so many members."""
    base = upload(client, next(sources))
    entries = [{"inferenceKey": "base", "modelId": base}]
    entries += [
        {"inferenceKey": f"k{number}", "modelId": upload(client, next(sources))}
        for number in range(members - 1)
    ]
    body = {
        **OWNER,
        "createType": "CREATE",
        "modelGroupDetails": {"type": "STACKED", "baseModelId": base},
        "memberModelEntries": {"memberModelDetails": entries},
    }
    first = timed(lambda: answered(client.post("/modelGroups", json=body)), 1)
    again = timed(lambda: answered(client.post("/modelGroups", json=body)), 3)
    group = client.get("/modelGroups?compartmentId=c&limit=1").json()[0]["id"]
    tell("create, adapters never checked before", first, 2000)
    tell("create, adapters checked before", again, 2000)
    tell("get", timed(lambda: answered(client.get(f"/modelGroups/{group}"))), 50)
    tell("list", timed(lambda: answered(client.get("/modelGroups?compartmentId=c"))), 50)
    page = f"/modelGroups/{group}/models?compartmentId=c"
    tell("list 100 of its models", timed(lambda: answered(client.get(page))), 50)


def measure_routing(members: int) -> None:
    """Resolve a key of one group among ten."""
    routes = Routes()
    for number in range(10):
        name = f"g{number}"
        targets = tuple(
            Target(name, "1", f"k{m}", f"ocid1.m.{m}", f"k{m}@", None, "base")
            for m in range(members)
        )
        routes.publish(name, GroupRoutes(Gate(name, 1), targets, address=f"ocid1.d.{number}"))
    calls, began = 100_000, time.perf_counter()
    for _ in range(calls):
        routes.current.resolve_at("ocid1.d.3", "k77")
    micros = (time.perf_counter() - began) / calls * 1e6
    print(f"{'resolve a key':40} {micros:8.2f} µs   at most 10")


def upload(client: TestClient, folder: Path) -> str:
    model = answered(client.post("/models", json=OWNER)).json()["id"]
    files = ((path.name, path) for path in sorted(folder.iterdir()))
    answered(client.post(f"/models/{model}/artifact", content=b"".join(zip_of(files))))
    return str(model)


def answered(response: Any) -> Any:
    response.raise_for_status()
    return response


def timed(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median of some rounds, in milliseconds."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def tell(what: str, milliseconds: float, most: float) -> None:
    print(f"{what:40} {milliseconds:8.1f} ms   at most {most:g}")


if __name__ == "__main__":
    main()
