"""Some rows of each table, as the dumps of released schemas have them.

`python -m tests.store.released_rows` dumps the newest schema with them into `schemas/`, once for each
kind of database; do so when a schema is released, and for `0001` whenever it changes before.
"""

from __future__ import annotations

import sqlite3
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from stackserve.store import tables as t
from stackserve.store.database import open_database
from tests import postgresql

SCHEMAS = Path(__file__).parent / "schemas"
MOMENT = datetime(2026, 11, 25, 8, 30, 0, 123000, UTC)
DIGEST = "ab" * 32


def resource(kind: str, number: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"ocid1.{kind}.oc1.local.{number:032}",
        "compartment_id": "ocid1.compartment.oc1..comp",
        "display_name": f"{kind} Ü {number}",
        "lifecycle_state": "ACTIVE",
        "created_by": "local",
        "time_created": MOMENT,
        "time_updated": MOMENT,
        "freeform_tags": {"team": "it's"},
        "defined_tags": {"space": {"key": 1}},
        "unused": {"category": "USER"},
        **fields,
    }


def rows() -> list[t.Table]:
    """In an order in which what is referred to comes first."""
    project = resource("datascienceproject")
    of = {"project_id": project["id"]}
    versions = resource("datasciencemodelversionset", latest_version=1, **of)
    base = resource("datasciencemodel", 1, artifact_digest=DIGEST, **of)
    adapter = resource(
        "datasciencemodel", 2, version_set_id=versions["id"], version_id=1, version_label="a", **of
    )
    history = resource("datasciencemodelgroupversionhistory", latest_version=1, **of)
    metadata = [{"key": "k", "value": "v"}]
    group = resource(
        "datasciencemodelgroup",
        type="STACKED",
        base_model_id=base["id"],
        custom_metadata=metadata,
        history_id=history["id"],
        create_type="CREATE",
        **of,
    )
    deployment = resource(
        "datasciencemodeldeployment",
        gateway="gateway",
        url="http://127.0.0.1:8000",
        configuration={"deploymentType": "MODEL_GROUP"},
        wanted_state="ACTIVE",
        wanted_group_id=group["id"],
        group_id=group["id"],
        model_states={base["id"]: {"state": "SUCCESS", "message": ""}},
        **of,
    )
    work = t.WorkRequest(
        id="ocid1.datascienceworkrequest.oc1.local.1",
        operation_type="MODEL_DEPLOYMENT_CREATE",
        status="SUCCEEDED",
        compartment_id=project["compartment_id"],
        resource_id=deployment["id"],
        entity_type="deployments",
        action_type="CREATED",
        percent_complete=100.0,
        time_accepted=MOMENT,
    )
    members = [
        t.GroupMember(group_id=group["id"], position=n, inference_key=key, model_id=model["id"])
        for n, (key, model) in enumerate([("base", base), ("a", adapter)])
    ]
    return [
        t.Project(**project),
        t.Artifact(
            digest=DIGEST, kind="BASE", size_bytes=2**40, facts={"dtype": "f"}, time_created=MOMENT
        ),
        t.ModelVersionSet(**versions),
        t.Model(**base),
        t.Model(**adapter),
        t.VersionHistory(**history),
        t.Group(**group),
        *members,
        t.Deployment(**deployment),
        work,
        t.WorkRequestLine(work_request_id=work.id, message="line\nof two", time=MOMENT),
        t.RetryToken(
            token="t", body_sha256=DIGEST, status=200, headers={}, body="{}", time_created=MOMENT
        ),
    ]


def fill(url: str) -> None:
    """The newest schema, with the rows."""
    database = open_database(url)
    for row in rows():
        with database.write() as session:
            session.add(row)
    database.close()


def dump_sqlite(folder: Path) -> str:
    path = folder / "stackserve.db"
    fill(f"sqlite:///{path}")
    connection = sqlite3.connect(path)
    written = "\n".join(connection.iterdump())
    connection.close()
    return written


def dump_postgresql() -> str:
    binaries = postgresql.binaries()
    assert binaries is not None, "PostgreSQL is not installed (apt install postgresql)"
    with postgresql.running(binaries) as server:
        url = make_url(server.new_database())
        fill(url.render_as_string())
        options = ("--inserts", "--no-owner", "-U", str(url.username), "-h", str(server.socket))
        dump = (str(binaries / "pg_dump"), *options, str(url.database))
        written = subprocess.run(dump, stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = (line for line in written.splitlines() if not line.startswith(("--", "\\", "SET ")))
    return "\n".join(line for line in lines if line)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = {"sqlite": dump_sqlite(Path(folder)), "postgresql": dump_postgresql()}
    newest = max(path.name[:4] for path in Path(t.__file__).parent.glob("migrations/versions/*.py"))
    for dialect, dump in written.items():
        (SCHEMAS / f"{newest}.{dialect}.sql").write_text(dump + "\n")


if __name__ == "__main__":
    main()
