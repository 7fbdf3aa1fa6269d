"""Triton's own client with its defaults, against real ONNX models behind a real gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from stackserve.runtime_settings import RuntimeGroupSettings, RuntimeMemberSettings
from tests.running import Running, running
from tests.runtimes import onnx_models

X = np.arange(32, dtype=np.int32).reshape(2, 16)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Running]:
    contents = {"simple": onnx_models.add_sub(), "texts": onnx_models.string_identity()}
    members = []
    for key, content in contents.items():
        (tmp_path / key).mkdir()
        (tmp_path / key / "model.onnx").write_bytes(content)
        members.append(RuntimeMemberSettings(key=key, path=str(tmp_path / key)))
    group = RuntimeGroupSettings(name="onnx", kind="homogeneous", members=tuple(members))
    async with running(group) as each:
        yield each


async def with_client(served: Running, work: Callable[[Any], Any]) -> Any:
    """What the blocking client says; it runs in a thread, since the server is in this one."""

    def run() -> Any:
        with triton.InferenceServerClient(served.url.removeprefix("http://")) as client:
            return work(client)

    return await asyncio.to_thread(run)


def tensors(module: Any = triton, **how: Any) -> list[Any]:
    found = []
    for name in ("INPUT0", "INPUT1"):
        tensor = module.InferInput(name, X.shape, "INT32")
        tensor.set_data_from_numpy(X, **how)
        found.append(tensor)
    return found


def check(result: Any) -> None:
    assert (result.as_numpy("OUTPUT0") == X + X).all()
    assert (result.as_numpy("OUTPUT1") == 0).all()


async def test_it_finds_the_server_and_its_models_in_health(served: Running) -> None:
    def work(client: Any) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("simple")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        assert {each["name"] for each in client.get_model_repository_index()} == {"simple", "texts"}
        about = client.get_model_metadata("simple")
        assert [each["datatype"] for each in about["inputs"]] == ["INT32", "INT32"]
        assert client.get_model_config("simple")["max_batch_size"] > 0

    await with_client(served, work)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
async def test_it_infers_in_json_and_binary_packed_or_not(
    served: Running, binary: bool, packed: str | None
) -> None:
    def work(client: Any) -> Any:
        outputs = [triton.InferRequestedOutput(f"OUTPUT{n}", binary_data=binary) for n in (0, 1)]
        return client.infer(
            "simple",
            tensors(binary_data=binary),
            outputs=outputs,
            request_id="42",
            request_compression_algorithm=packed,
            response_compression_algorithm=packed,
        )

    result = await with_client(served, work)
    check(result)
    assert result.get_response()["id"] == "42"


async def test_its_default_call_gets_binary_outputs(served: Running) -> None:
    result = await with_client(served, lambda client: client.infer("simple", tensors()))
    check(result)
    assert "data" not in result.get_output("OUTPUT0")


async def test_texts_go_both_ways(served: Running) -> None:
    texts = np.array([[b"pirate"], ["Grüße".encode()]], np.object_)

    def work(client: Any) -> Any:
        name = client.get_model_metadata("texts")["inputs"][0]["name"]
        tensor = triton.InferInput(name, texts.shape, "BYTES")
        tensor.set_data_from_numpy(texts)
        result = client.infer("texts", [tensor])
        return result.as_numpy(result.get_response()["outputs"][0]["name"])

    assert (await with_client(served, work)).tolist() == texts.tolist()


async def test_it_loads_and_unloads(served: Running) -> None:
    def work(client: Any) -> None:
        client.load_model("simple")
        assert client.is_model_ready("simple")
        client.unload_model("simple")
        assert not client.is_model_ready("simple")
        states = {each["name"]: each["state"] for each in client.get_model_repository_index()}
        assert states["simple"] == "UNAVAILABLE"
        check(client.infer("simple", tensors()))  # on demand
        assert client.is_model_ready("simple")
        client.unload_model("never-heard-of")

    await with_client(served, work)


async def test_it_reads_statistics(served: Running) -> None:
    def work(client: Any) -> Any:
        client.infer("simple", tensors())
        return client.get_inference_statistics("simple")["model_stats"][0]

    counted = await with_client(served, work)
    assert counted["inference_count"] == 2  # rows
    assert counted["inference_stats"]["success"]["count"] == 1


async def test_its_asynchronous_calls_are_answered(served: Running) -> None:
    def work(client: Any) -> None:
        for waiting in [client.async_infer("simple", tensors()) for _ in range(8)]:
            check(waiting.get_result())

    await with_client(served, work)
    async with triton_aio.InferenceServerClient(served.url.removeprefix("http://")) as client:
        results = await asyncio.gather(*(client.infer("simple", tensors()) for _ in range(8)))
    for result in results:
        check(result)


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an unknown model": (lambda c: c.infer("nope", tensors()), "[404] Request for unknown model"),
    "its metadata": (lambda c: c.get_model_metadata("nope"), "[404] Request for unknown model"),
    "an unknown version": (
        lambda c: c.infer("simple", tensors(), model_version="9"),
        "[404] Request for unknown model: 'simple' version 9",
    ),
    "a load of it": (lambda c: c.load_model("nope"), "[404] failed to load 'nope'"),
    "a missing input": (lambda c: c.infer("simple", tensors()[:1]), "[400]"),
    "an unknown input": (
        lambda c: c.infer("simple", [*tensors(), triton.InferInput("X", [1], "INT32")]),
        "[400]",
    ),
    "an unknown output": (
        lambda c: c.infer("simple", tensors(), outputs=[triton.InferRequestedOutput("X")]),
        "[400]",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_wrong_is_told_as_it_expects(served: Running, wrong: str) -> None:
    work, words = WRONG[wrong]
    with pytest.raises(InferenceServerException) as told:
        await with_client(served, work)
    assert str(told.value).startswith(words)
