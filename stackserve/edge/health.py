"""`/livez`, `/readyz` and `/metrics`: what an operator and an orchestrator ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from stackserve.control.states import DeploymentState, DeploymentStatus
from stackserve.edge.relay import Drain
from stackserve.edge.scrape import Scrape
from stackserve.metrics import Metrics
from stackserve.routing.snapshot import Routes

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def add_health(
    app: FastAPI,
    routes: Routes,
    statuses: Callable[[], Sequence[DeploymentStatus]],
    metrics: Metrics,
    drain: Drain,
) -> None:
    """Add the three routes to the application."""
    scrape = Scrape(routes, metrics)

    @app.get("/livez")
    async def alive() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def ready() -> Response:
        now = statuses()
        word = "draining" if drain.begun else readiness(now)
        body = {"status": word, "groups": [asdict(status) for status in now]}
        return JSONResponse(body, 200 if word in ("ready", "degraded") else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        for status in statuses():
            metrics.in_flight.labels(status.group).set(status.in_flight)
            metrics.ready.labels(status.group).set(status.state is DeploymentState.READY)
            metrics.served.labels(status.group, "served").set(status.served)
            metrics.served.labels(status.group, "refused").set(len(status.refused))
        return Response(await scrape.text(), media_type=PROMETHEUS)


def readiness(statuses: Sequence[DeploymentStatus]) -> str:
    """One word for all groups.

    `ready`: every group answers. `loading`: one has yet to answer for the first time. `degraded`:
    some answer, the others are down. `down`: none answers.
    """
    states = [status.state for status in statuses]
    if all(state is DeploymentState.READY for state in states):
        return "ready"
    if any(status.is_loading for status in statuses):
        return "loading"
    return "degraded" if DeploymentState.READY in states else "down"
