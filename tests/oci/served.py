"""A gateway over a store, with fake workers, and the official clients of it."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oci
import pytest
from oci.data_science import DataScienceClient
from oci.data_science import models as m
from oci.model_deployment import ModelDeploymentClient

from stackserve.adapters import validate_source
from stackserve.app import Gateway, open_gateway
from stackserve.control.storefront import open_store
from stackserve.server_settings import ServerSettings
from stackserve.settings import Settings
from stackserve.workers import fake

COMPARTMENT = "ocid1.compartment.oc1..comp"
PROJECT = "ocid1.datascienceproject.oc1.local.proj"
OWNER = {"compartment_id": COMPARTMENT, "project_id": PROJECT}
SETTLED = ("ACTIVE", "FAILED", "NEEDS_ATTENTION", "INACTIVE")
PATIENCE = 300.0


@dataclass(frozen=True)
class Served:
    """A running gateway, and what tests ask of it. Methods block: call them in a thread."""

    gateway: Gateway
    url: str
    client: DataScienceClient
    predict: ModelDeploymentClient

    def model(self, folder: Path, name: str = "m") -> str:
        """A model with the files of a folder; its id."""
        details = m.CreateModelDetails(
            compartment_id=COMPARTMENT, project_id=PROJECT, display_name=name
        )
        identifier = self.client.create_model(details).data.id
        self.client.create_model_artifact(identifier, zipped(folder))
        return str(identifier)

    def group(self, base: str, adapters: dict[str, str], name: str = "g", **more: Any) -> str:
        """A stacked group of a base and adapters by key; its id."""
        members = [m.MemberModelDetails(inference_key="base", model_id=base)]
        members += [
            m.MemberModelDetails(inference_key=key, model_id=each) for key, each in adapters.items()
        ]
        details = m.CreateModelGroupDetails(
            compartment_id=COMPARTMENT,
            project_id=PROJECT,
            display_name=name,
            model_group_details=m.StackedModelGroupDetails(base_model_id=base, **more),
            member_model_entries=m.MemberModelEntries(member_model_details=members),
        )
        return str(self.client.create_model_group(details).data.id)

    def deploy(
        self, group: str, name: str = "dep", environment: dict[str, str] | None = None
    ) -> str:
        """A deployment of a group, once its work has ended; its id."""
        created = self.client.create_model_deployment(deployment_of(group, name, environment))
        self.done(created)
        return str(created.data.id)

    def update(self, deployment: str, group: str, kind: str = "LIVE") -> str:
        """Another group for a deployment; how the work ended."""
        details = m.UpdateModelDeploymentDetails(
            model_deployment_configuration_details=m.UpdateModelGroupDeploymentConfigurationDetails(
                update_type=kind,
                model_group_configuration_details=m.UpdateModelGroupConfigurationDetails(
                    model_group_id=group
                ),
            )
        )
        return self.done(self.client.update_model_deployment(deployment, details))

    def done(self, response: oci.Response) -> str:
        """Wait for the work of a call; its status."""
        work = self.client.get_work_request(response.headers["opc-work-request-id"])
        ended = oci.wait_until(
            self.client,
            work,
            evaluate_response=lambda r: r.data.status in ("SUCCEEDED", "FAILED", "CANCELED"),
            max_wait_seconds=PATIENCE,
            max_interval_seconds=0.05,
        )
        return str(ended.data.status)

    def ask(self, deployment: str, key: str, words: str = "whoami") -> Any:
        """The answer of a deployment's model to some words."""
        body = {"model": key, "messages": [{"role": "user", "content": words}]}
        return self.predict.predict(deployment, body)


def refused(status: int, code: str, sentence: str) -> pytest.RaisesExc[oci.exceptions.ServiceError]:
    """A call that ends with this error; `sentence` is a pattern."""
    return pytest.raises(
        oci.exceptions.ServiceError,
        match=sentence,
        check=lambda error: (error.status, error.code) == (status, code),
    )


def zipped(folder: Path) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return out.getvalue()


def deployment_of(
    group: str, name: str, environment: dict[str, str] | None = None
) -> m.CreateModelDeploymentDetails:
    return m.CreateModelDeploymentDetails(
        compartment_id=COMPARTMENT,
        project_id=PROJECT,
        display_name=name,
        model_deployment_configuration_details=m.ModelGroupDeploymentConfigurationDetails(
            model_group_configuration_details=m.ModelGroupConfigurationDetails(
                model_group_id=group
            ),
            infrastructure_configuration_details=m.InstancePoolInfrastructureConfigurationDetails(
                instance_configuration=m.InstanceConfiguration(
                    instance_shape_name="stackserve.local"
                )
            ),
            environment_configuration_details=m.DefaultModelDeploymentEnvironmentConfigurationDetails(
                environment_variables=environment or {"A_B": "1"}
            ),
        ),
    )


@asynccontextmanager
async def serving_store(
    data: Path, config: dict[str, str], command: Sequence[str] = fake.COMMAND, **server: Any
) -> AsyncIterator[Served]:
    """Serve what is deployed in a store; it may be served again afterwards."""
    settings = Settings(server=ServerSettings(port=0, store=True, **server), groups=())
    with ExitStack() as stack:
        store = await asyncio.to_thread(stack.enter_context, open_store(settings.server, data))
        opening = open_gateway(settings, Path, validate_source, command, store)
        async with opening as gateway:
            url = f"http://127.0.0.1:{gateway.port}"
            options: dict[str, Any] = {
                "service_endpoint": url,
                "retry_strategy": oci.retry.NoneRetryStrategy(),
            }
            yield Served(
                gateway,
                url,
                DataScienceClient(config, **options),
                ModelDeploymentClient(config, **options),
            )
