"""A deployment is asked under its OCID: by the official client, by OpenAI's, and by headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import oci
import openai
import pytest

from tests.conftest import Models
from tests.oci.served import Served, serving_store

ASKED: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({}, {"model": "a", "messages": [{"role": "user", "content": "whoami"}]}),
    ({"model-key": "a"}, {"messages": [{"role": "user", "content": "whoami"}]}),
    ({"model-key": "a", "route": "/v1/completions"}, {"prompt": "whoami"}),
    ({"model-key": "a"}, {"prompt": "whoami"}),
]


async def with_deployment(
    folder: Path,
    config: dict[str, str],
    models: Models,
    story: Callable[[Served, str], None],
    **server: Any,
) -> None:
    """Tell a story of a deployment with the base and `a`."""
    async with serving_store(folder, config, **server) as served:

        def tell() -> None:
            adapter = served.model(models.adapter("a"))
            group = served.group(served.model(models.base), {"a": adapter})
            story(served, served.deploy(group))

        await asyncio.to_thread(tell)


async def test_the_official_client_asks_for_an_answer_and_for_a_stream(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    def story(served: Served, deployment: str) -> None:
        answer = served.ask(deployment, "a")
        content = json.loads(answer.data)["choices"][0]["message"]["content"]
        assert content.startswith("a@")
        assert answer.headers["x-stackserve-key"] == "a"
        body = {"model": "base", "messages": [{"role": "user", "content": "one two"}]}
        stream = served.predict.predict_with_response_stream(deployment, body)
        events = [event.data for event in stream.data.events()]
        words = [json.loads(e)["choices"][0]["delta"]["content"] for e in events[:-1]]
        assert (words, events[-1]) == (["one", "two"], "[DONE]")

    await with_deployment(tmp_path, oci_config, models, story)


async def test_openais_client_finds_the_routes_below_predict(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    def story(served: Served, deployment: str) -> None:
        base_url = f"{served.url}/{deployment}/predict/v1"
        with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["base", "a"]
            asked = client.chat.completions.create(
                model="a", messages=[{"role": "user", "content": "whoami"}]
            )
            assert str(asked.choices[0].message.content).startswith("a@")
            with pytest.raises(openai.NotFoundError, match="no model 'b'"):
                client.chat.completions.create(model="b", messages=[])

    await with_deployment(tmp_path, oci_config, models, story)


async def test_headers_and_body_choose_the_model_and_the_route(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    def story(served: Served, deployment: str) -> None:
        with httpx.Client(base_url=served.url) as http:
            for headers, body in ASKED:
                answer = http.post(f"/{deployment}/predict", headers=headers, json=body)
                assert answer.headers["x-stackserve-key"] == "a", answer.text
                assert '"a@' in answer.text
            stream = http.post(
                f"/{deployment}/predict",
                headers={"enable-streaming": "true"},
                json=ASKED[0][1],
            )
            assert stream.headers["content-type"] == "text/event-stream"
            unnamed = http.post(f"/{deployment}/predict", json={"prompt": "x"})
            assert unnamed.headers["x-stackserve-key"] == "base"
            full = served.gateway.statuses()[0].group + "/a"
            shared = http.post("/v1/chat/completions", json={**ASKED[0][1], "model": full})
            assert shared.headers["x-stackserve-key"] == "a"
            assert http.post("/v1/chat/completions", json=ASKED[0][1]).status_code == 404

    await with_deployment(tmp_path, oci_config, models, story)


BAD: list[tuple[dict[str, str], dict[str, Any], int, str, str]] = [
    ({"model-key": "a"}, {"model": "base", "prompt": "x"}, 400, "InvalidParameter", "model-key"),
    ({}, {"model": "nobody", "prompt": "x"}, 404, "NotAuthorizedOrNotFound", "nobody"),
    ({}, {"model": "a"}, 400, "InvalidParameter", "none of messages, prompt, input"),
    ({"route": "/v1/nowhere"}, {"model": "a"}, 404, "NotAuthorizedOrNotFound", "header route"),
    ({"enable-streaming": "maybe"}, {"model": "a"}, 400, "InvalidParameter", "enable-streaming"),
    ({}, {"model": "a", "prompt": "x" * 2**20}, 413, "PayloadTooLarge", "larger"),
    ({}, {"model": "a", "messages": [{"content": "hang"}]}, 504, "InternalServerError", "0.5 s"),
    ({}, {"model": "a", "messages": [{"content": "refuse"}]}, 400, "InvalidParameter", "refused"),
]


async def test_every_error_has_ocis_code_and_message(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    def story(served: Served, deployment: str) -> None:
        with httpx.Client(base_url=served.url) as http:
            for headers, body, status, code, words in BAD:
                answer = http.post(f"/{deployment}/predict", headers=headers, json=body)
                told = answer.json()
                assert (answer.status_code, told["code"]) == (status, code), told
                assert words in told["message"]
                assert told["error"]["message"]
        with pytest.raises(oci.exceptions.ServiceError) as caught:
            served.predict.predict("ocid1.datasciencemodeldeployment.oc1.local.none", {})
        assert (caught.value.status, caught.value.code) == (404, "NotAuthorizedOrNotFound")

    await with_deployment(
        tmp_path,
        oci_config,
        models,
        story,
        predict_timeout_seconds=0.5,
        predict_max_body_mib=1,
    )
