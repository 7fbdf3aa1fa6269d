"""The composition root: builds everything from the settings, runs it, and takes it down in order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import uvicorn

from stackserve.adapters import validate_source
from stackserve.auth.authenticator import open_authenticator
from stackserve.control.deployment import Deployment
from stackserve.control.fleet import Fleet
from stackserve.control.groups import Admit, StackedGroup, read_group
from stackserve.control.hosted import HostedDeployment
from stackserve.control.hosted_groups import Locate
from stackserve.control.ledger import Ledger
from stackserve.control.reading import Progress
from stackserve.control.reload import GroupUpdate, Outcome, update_groups, update_hosted
from stackserve.control.states import DeploymentStatus
from stackserve.control.stored import settings_of
from stackserve.control.storefront import Store
from stackserve.control.update import changed_options
from stackserve.edge.guard import guarded
from stackserve.edge.relay import Drain
from stackserve.edge.routes import build_app
from stackserve.edge.shadow import Shadows
from stackserve.errors import ConfigError
from stackserve.metrics import NOBODY, Metrics
from stackserve.oci.api import PREFIX, control_plane
from stackserve.oci.deployments import ThisGateway
from stackserve.routing.snapshot import Routes
from stackserve.server_settings import ServerSettings
from stackserve.settings import GroupSettings, Settings

logger = logging.getLogger(__name__)

MIB = 2**20
LAST_WORDS_SECONDS = 2.0
"""After the workers are stopped, how long clients may take to read the error that tells them so."""


@dataclass(frozen=True)
class Traffic:
    """What all requests have in common."""

    drain: Drain
    metrics: Metrics
    shadows: Shadows


class Gateway:
    """A running server. Made by `open_gateway`."""

    def __init__(
        self,
        deployments: Sequence[Deployment],
        hosted: Sequence[HostedDeployment],
        fleet: Fleet | None,
        port: int,
        traffic: Traffic,
        server: ServerSettings,
    ) -> None:
        self.port = port
        self._deployments = deployments
        """Those of the file."""
        self._hosted = hosted
        self._fleet = fleet
        self._drain = traffic.drain
        self._metrics = traffic.metrics
        self._shadows = traffic.shadows
        self._server = server
        self._updating = asyncio.Lock()

    def of_file(self) -> list[Deployment | HostedDeployment]:
        return [*self._deployments, *self._hosted]

    def deployments(self) -> list[Deployment | HostedDeployment]:
        """All that run: those of the file, and those of the store."""
        of_store = self._fleet.deployments() if self._fleet else ()
        return [*self.of_file(), *of_store]

    def statuses(self) -> list[DeploymentStatus]:
        return [deployment.status() for deployment in self.deployments()]

    async def changed(self) -> None:
        """Wait until some group's state or detail changes."""
        waits = [
            asyncio.create_task(deployment.standing.change.wait())
            for deployment in self.deployments()
        ]
        if self._fleet is not None:
            waits.append(asyncio.create_task(self._fleet.change.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def update(self, load: Callable[[], Settings]) -> list[GroupUpdate]:
        """Change the members of running groups to what the settings say now, and say what needs a
        restart; `load` reads them, in a thread. See `update_groups`.

        Raises ConfigError, and then changes nothing, as when the server drains.
        """
        async with self._updating:
            try:
                settings = await asyncio.to_thread(load)
            except ConfigError:
                self._metrics.updates.labels(NOBODY, "invalid_config").inc()
                for deployment in self.of_file():
                    deployment.standing.note("not updated: the file is wrong, see the server's log")
                raise
            updates = []
            if not self._drain.begun:
                updates += await update_groups(self._deployments, settings)
                updates += await update_hosted(self._hosted, self._deployments, settings)
        for option in changed_options("server", self._server, settings.server):
            logger.warning("%s changed; restart the server for it", option)
        for each in updates:
            self._metrics.updates.labels(each.group, each.outcome).inc()
            level = logging.WARNING if each.outcome is Outcome.NOT_LIVE else logging.INFO
            logger.log(level, "%s: %s", each.group, each.sentence)
        return updates

    async def drained(self, seconds: float) -> None:
        """Take no new requests, and wait until none runs, at most so many seconds.

        It still listens: new requests hear that the server shuts down, probes how far it is.
        """
        self._drain.begun = True
        await self._shadows.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for deployment in self.deployments():
                    await deployment.gate.empty()


class _Server(uvicorn.Server):
    """uvicorn that says when it listens, without signal handlers: `Stop.by_signals` has its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def open_gateway(
    settings: Settings,
    locate: Callable[[str], Path],
    admit: Admit,
    worker_command: Sequence[str] | None = None,
    store: Store | None = None,
) -> AsyncIterator[Gateway]:
    """Listen, then bring up every group side by side; leaving the context stops all of it.

    `locate` turns a path as written in the settings into a folder. With a `store`, its deployments are
    run too and its API is offered. Raises ConfigError when the address cannot, or must not, be listened
    on, or a key cannot be read.
    """
    authenticator = open_authenticator(settings.server, locate, store_open=store is not None)
    listener = _listen(settings.server.host, settings.server.port)
    routes, metrics, drain = Routes(), Metrics(), Drain()
    read = partial(_read, locate=locate, admit=admit)
    with tempfile.TemporaryDirectory(prefix="stackserve-") as sockets:
        folder = Path(sockets)
        deployments = [
            Deployment(group, read, routes, folder / f"{number}.sock", command=worker_command)
            for number, group in enumerate(settings.stacked)
        ]
        hosted = _hosted(settings, locate, routes, folder)
        port = listener.getsockname()[1]
        fleet = None
        if store is not None:
            fleet = Fleet(
                Ledger(store.database, settings.server.gateway, partial(settings_of, store.shelf)),
                _StoredDeployments(folder, worker_command),
                routes,
                settings.server.drain_seconds,
            )
        shadows = Shadows(metrics)
        traffic = Traffic(drain, metrics, shadows)
        gateway = Gateway(deployments, hosted, fleet, port, traffic, settings.server)
        app = build_app(routes, gateway.statuses, metrics, drain, shadows, settings.server)
        if store is not None and fleet is not None:
            app.mount(PREFIX, control_plane(store, _this_gateway(settings.server, port, fleet)))
        async with _http_server(guarded(app, authenticator, settings.server), listener):
            lives = [asyncio.create_task(each.run()) for each in gateway.of_file()]
            if fleet is not None:
                lives.append(asyncio.create_task(fleet.run()))
            try:
                yield gateway
            finally:
                drain.begun = True
                for deployment in gateway.deployments():
                    deployment.gate.shut("the server shuts down")
                await shadows.close()
                for life in lives:
                    life.cancel()
                await asyncio.gather(*lives, return_exceptions=True)


def _read(
    group: GroupSettings, progress: Progress, *, locate: Locate, admit: Admit
) -> StackedGroup:
    return read_group(group, locate, admit, progress)


def _hosted(
    settings: Settings, locate: Locate, routes: Routes, folder: Path
) -> list[HostedDeployment]:
    """Each with a folder of its own for temporary files."""
    most_body = settings.server.max_body_mib * MIB
    return [
        HostedDeployment(group, locate, routes, folder / f"h{number}", most_body)
        for number, group in enumerate(settings.of_runtimes)
    ]


class _StoredDeployments:
    """Makes the deployments of the store, each with a socket of its own."""

    def __init__(self, sockets: Path, command: Sequence[str] | None) -> None:
        self._sockets = sockets
        self._command = command
        self._made = itertools.count()

    def __call__(self, settings: GroupSettings, address: str, routes: Routes) -> Deployment:
        socket = self._sockets / f"s{next(self._made)}.sock"
        return Deployment(
            settings, _read_stored, routes, socket, address=address, command=self._command
        )


def _read_stored(group: GroupSettings, progress: Progress) -> StackedGroup:
    """The artifacts of the store are private and read-only, so they are served where they are."""
    return read_group(group, Path, validate_source, progress)


def _this_gateway(server: ServerSettings, port: int, fleet: Fleet) -> ThisGateway:
    host = f"[{server.host}]" if ":" in server.host else server.host
    url = (server.public_url or f"http://{host}:{port}").rstrip("/")
    return ThisGateway(server.gateway, url, fleet.poke)


@dataclass(frozen=True)
class Stop:
    """The wish to stop: `first` begins the draining, `second` ends it."""

    first: asyncio.Event = field(default_factory=asyncio.Event)
    second: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def by_signals(cls) -> Stop:
        """From now on SIGTERM and SIGINT are wishes to stop, and no longer the end of the process."""
        stop = cls()

        def signalled() -> None:
            (stop.second if stop.first.is_set() else stop.first).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, signalled)
        return stop


async def run_until_stopped(gateway: Gateway, drain_seconds: float, stop: Stop) -> None:
    """Wait for the first wish to stop, then drain until nothing runs, the time is up, or the second."""
    await stop.first.wait()
    logger.info("draining for at most %g s; a second signal stops at once", drain_seconds)
    draining = asyncio.create_task(gateway.drained(drain_seconds))
    impatient = asyncio.create_task(stop.second.wait())
    await asyncio.wait((draining, impatient), return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, impatient):
        task.cancel()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By this protocol asyncio knows to switch Nagle's delay off: else an answer's body waits 40 ms for
    # the acknowledgement of its head.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "choose another with --port (0 takes a free one)"
        ) from None
    return listener


@asynccontextmanager
async def _http_server(app: object, listener: socket.socket) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]  # FastAPI is an ASGI application
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=int(LAST_WORDS_SECONDS),
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        await server.listening.wait()
        yield
    finally:
        server.should_exit = True
        await serving
