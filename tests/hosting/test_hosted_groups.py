"""Groups of models of other frameworks, behind a real gateway and in real worker processes; the models
are fake, so that they crash, hang and grow on order.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from stackserve.server_settings import AuthSettings, BearerKeySettings
from tests.hosting.fakes import MIB, fake_group, fake_model, question
from tests.running import PATIENCE, Running, running


async def ask(served: Running, key: str, *rows: list[float]) -> tuple[int, Any]:
    url = f"/v2/models/{key}/infer"
    async with served.http.post(url, json=question(*(rows or ([1.0, 2.0],)))) as response:
        return response.status, await response.json()


def values(answer: Any) -> list[float]:
    return list(answer["outputs"][0]["data"])


async def index(served: Running) -> dict[str, dict[str, str]]:
    async with served.http.post("/v2/repository/index") as response:
        return {each["name"]: each for each in await response.json()}


async def is_ready(served: Running, key: str) -> bool:
    async with served.http.get(f"/v2/models/{key}/ready") as response:
        return (response.status == 200) and (await response.json())["ready"]


async def eventually(check: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await check():  # noqa: ASYNC110  # what is waited for is another process's
            await asyncio.sleep(0.02)


async def test_each_model_answers_by_its_key_its_id_and_its_full_name(tmp_path: Path) -> None:
    group = fake_group(tmp_path, a={"factor": 2}, b={"factor": 3, "member": {"model_id": "id:b"}})
    async with running(group) as served:
        assert values((await ask(served, "a"))[1]) == [2, 4]
        for name in ("b", "id:b", "zoo/b"):
            status, answer = await ask(served, name)
            assert (status, values(answer)) == (200, [3, 6])
            assert answer["model_name"] == name


async def test_models_beyond_the_budget_come_and_go_and_all_answer_right(tmp_path: Path) -> None:
    models = {f"m{n}": {"factor": n + 1, "bytes": 4 * MIB} for n in range(12)}
    async with running(fake_group(tmp_path, _={"memory_mib": 17}, **models)) as served:
        asked = [n * 5 % 12 for n in range(60)]
        answers = await asyncio.gather(*(ask(served, f"m{n}") for n in asked))
        assert [values(answer) for _, answer in answers] == [[n + 1, 2 * n + 2] for n in asked]
        host = served.gateway.of_file()[0].gate.endpoint
        assert host.memory()[0] <= 17 * MIB  # type: ignore[union-attr]


async def test_a_model_that_is_asked_while_it_goes_comes_back(tmp_path: Path) -> None:
    models = {f"m{n}": {"factor": n + 1, "bytes": 4 * MIB} for n in range(6)}
    async with running(fake_group(tmp_path, _={"memory_mib": 13}, **models)) as served:

        async def client(seed: int) -> None:
            draw = random.Random(seed)
            for _ in range(60):
                n = draw.randrange(6)
                status, answer = await ask(served, f"m{n}")
                assert (status, values(answer)) == (200, [n + 1, 2 * n + 2])

        await asyncio.gather(*map(client, range(3)))


async def test_many_requests_for_a_model_that_is_not_there_load_it_once(tmp_path: Path) -> None:
    async with running(fake_group(tmp_path, a={"load_seconds": 0.2})) as served:
        answers = await asyncio.gather(*(ask(served, "a") for _ in range(20)))
        assert {status for status, _ in answers} == {200}
        host = served.gateway.of_file()[0].gate.endpoint
        assert host.find("a").statistics.loads == 1  # type: ignore[union-attr]


async def test_a_model_larger_than_the_budget_is_refused_and_the_others_answer(
    tmp_path: Path,
) -> None:
    group = fake_group(tmp_path, _={"memory_mib": 8}, big={"bytes": 9 * MIB}, a={})
    async with running(group) as served:
        status, answer = await ask(served, "big")
        assert status == 507
        assert "memory_mib of its group is 8; raise it" in answer["error"]
        assert (await ask(served, "a"))[0] == 200


async def test_a_pinned_model_stays_when_others_need_room(tmp_path: Path) -> None:
    models = {f"m{n}": {"bytes": 4 * MIB} for n in range(4)}
    pinned = {"bytes": 4 * MIB, "member": {"pinned": True}}
    group = fake_group(tmp_path, _={"memory_mib": 9}, p=pinned, **models)
    async with running(group) as served:
        host = served.gateway.of_file()[0].gate.endpoint
        await eventually(lambda: _is_resident(host, "p"))
        for n in range(4):
            assert (await ask(served, f"m{n}"))[0] == 200
        assert await _is_resident(host, "p")
        assert host.find("p").statistics.loads == 1  # type: ignore[union-attr]


async def test_a_model_that_an_update_pins_comes_without_being_asked(tmp_path: Path) -> None:
    async with running(fake_group(tmp_path / "1", a={})) as served:
        await served.update(fake_group(tmp_path / "2", a={}, p={"member": {"pinned": True}}))
        host = served.gateway.of_file()[0].gate.endpoint
        await eventually(lambda: _is_resident(host, "p"))


async def test_a_body_that_comes_slowly_keeps_nobody_out(tmp_path: Path) -> None:
    group = fake_group(tmp_path, _={"max_in_flight": 1}, a={})
    async with running(group) as served:
        assert await _answers(served, "a")
        begun, release = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            body = json.dumps(question([1.0, 2.0])).encode()
            yield body[:10]
            begun.set()
            await release.wait()
            yield body[10:]

        async def ask_slowly() -> int:
            async with served.http.post("/v2/models/a/infer", data=slow()) as response:
                return response.status

        asking = asyncio.create_task(ask_slowly())
        await begun.wait()
        assert await _answers(served, "a")
        release.set()
        assert await asking == 200


async def _is_resident(host: Any, key: str) -> bool:
    return host.find(key).channel is not None


async def test_a_killed_worker_fails_what_it_had_and_comes_back_with_its_models(
    tmp_path: Path,
) -> None:
    group = fake_group(tmp_path, slow={"sleep_seconds": 30}, a={}, b={})
    async with running(group) as served:
        assert (await ask(served, "a"))[0] == 200
        under_way = asyncio.create_task(ask(served, "slow"))
        await eventually(lambda: _is_executing(served, "slow"))
        os.kill(served.status("zoo").worker_pid or 0, signal.SIGKILL)
        status, answer = await under_way
        assert (status, "died while it had this request" in answer["error"]) == (502, True)
        host = served.gateway.of_file()[0].gate.endpoint
        await eventually(lambda: _is_resident(host, "a"))  # without being asked
        assert (await ask(served, "b"))[0] == 200


async def _is_executing(served: Running, key: str) -> bool:
    host: Any = served.gateway.of_file()[0].gate.endpoint
    number = host.find(key).number
    process = host._workers["fake"].process
    return process is not None and number in [work.model for work in process.works()]


async def test_a_model_that_was_computed_at_two_crashes_running_is_kept_out_until_it_is_loaded(
    tmp_path: Path,
) -> None:
    group = fake_group(tmp_path, bad={"crash_on": 13}, good={"factor": 2})
    async with running(group) as served:
        for _ in range(2):
            assert (await ask(served, "bad", [13.0]))[0] == 502
            await eventually(lambda: _answers(served, "good"))
        status, answer = await ask(served, "bad", [1.0])
        assert status == 503
        assert "two crashes of its worker" in answer["error"]
        assert not await is_ready(served, "bad")
        entry = (await index(served))["bad"]
        assert (entry["state"], "two crashes" in entry["reason"]) == ("UNAVAILABLE", True)
        assert (await ask(served, "good"))[0] == 200
        async with served.http.post("/v2/repository/models/bad/load") as response:
            assert response.status == 200
        assert (await ask(served, "bad", [1.0]))[0] == 200


async def _answers(served: Running, key: str) -> bool:
    return (await ask(served, key))[0] == 200


async def test_a_computation_that_never_ends_is_ended_with_its_worker(tmp_path: Path) -> None:
    options = {"timeout_seconds": 0.5}
    group = fake_group(tmp_path, _=options, hangs={"sleep_seconds": 600}, a={})
    async with running(group) as served:
        assert (await ask(served, "a"))[0] == 200
        pid = served.status("zoo").worker_pid
        status, answer = await ask(served, "hangs")
        assert (status, "timeout_seconds" in answer["error"]) == (504, True)
        async with asyncio.timeout(PATIENCE):
            while served.status("zoo").worker_pid in (pid, None):
                await served.gateway.changed()
        assert (await ask(served, "a"))[0] == 200


async def test_a_broken_model_fails_alone_and_says_why(tmp_path: Path) -> None:
    group = fake_group(tmp_path, a={}, broken={})
    (tmp_path / "broken" / "fake.json").write_text("{")
    async with running(group) as served:
        status, answer = await ask(served, "broken")
        assert status == 503
        assert answer["error"].startswith(
            "failed to load 'broken': fake.json is not what it should be"
        )
        assert not await is_ready(served, "broken")
        assert (await ask(served, "a"))[0] == 200


async def test_files_that_changed_since_the_group_was_read_are_not_served(tmp_path: Path) -> None:
    group = fake_group(tmp_path, a={"factor": 2}, b={})
    async with running(group) as served:
        fake_model(tmp_path / "a", factor=3.25)
        status, answer = await ask(served, "a")
        assert (status, "reload the group" in answer["error"]) == (503, True)
        (update,) = await served.update(group)
        assert update.sentence == "1 replaced; 2 served"
        assert values((await ask(served, "a"))[1]) == [3.25, 6.5]


async def test_an_update_swaps_a_model_while_requests_of_the_old_one_finish(tmp_path: Path) -> None:
    before = fake_group(tmp_path / "1", a={"factor": 2, "sleep_seconds": 0.5}, gone={})
    after = fake_group(tmp_path / "2", a={"factor": 5}, new={"factor": 7})
    async with running(before) as served:
        under_way = asyncio.create_task(ask(served, "a"))
        await eventually(lambda: _is_executing(served, "a"))
        (update,) = await served.update(after)
        assert update.sentence == "1 added, 1 replaced, 1 removed; 2 served"
        assert values((await ask(served, "a"))[1]) == [5, 10]
        assert values((await ask(served, "new"))[1]) == [7, 14]
        assert values((await under_way)[1]) == [2, 4]
        status, answer = await ask(served, "gone")
        assert (status, answer["error"]) == (
            404,
            "Request for unknown model: 'gone' is not found",
        )


async def test_versions_are_asked_by_name_and_the_last_one_without(tmp_path: Path) -> None:
    for number in (1, 2):
        fake_model(tmp_path / str(number), factor=number)
    group = fake_group(tmp_path, a={})
    folders = {str(number): str(tmp_path / str(number)) for number in (1, 2)}
    member = group.members[0].model_copy(update={"path": None, "versions": folders})
    async with running(group.model_copy(update={"members": (member,)})) as served:
        assert values((await ask(served, "a"))[1]) == [2, 4]
        assert values((await ask(served, "a/versions/1"))[1]) == [1, 2]
        status, answer = await ask(served, "a/versions/9")
        assert (status, answer["error"]) == (
            404,
            "Request for unknown model: 'a' version 9 is not found",
        )


async def test_requests_that_wait_together_are_computed_together(tmp_path: Path) -> None:
    options: dict[str, Any] = {"workers": {"fake": {"lanes": 1}}}
    group = fake_group(tmp_path, _=options, a={"factor": 2, "sleep_seconds": 0.2})
    async with running(group) as served:
        asked = [ask(served, "a", [float(n)]) for n in range(10)]
        answers = await asyncio.gather(*asked)
        assert [values(answer) for _, answer in answers] == [[2.0 * n] for n in range(10)]
        async with served.http.get("/v2/models/a/stats") as response:
            stats = (await response.json())["model_stats"][0]
        assert stats["inference_count"] == 10
        assert stats["execution_count"] <= 3


async def test_a_worker_that_keeps_the_memory_of_models_is_replaced_without_a_pause(
    tmp_path: Path,
) -> None:
    leak = {"bytes": 120 * MIB, "leak": True}
    group = fake_group(tmp_path, _={"memory_mib": 150}, leak=leak, a={})
    async with running(group) as served:
        assert await _answers(served, "leak")
        pid = served.status("zoo").worker_pid
        async with served.http.post("/v2/repository/models/leak/unload") as response:
            assert response.status == 200
        while served.status("zoo").worker_pid == pid:
            assert await _answers(served, "a")
        assert await _answers(served, "a")


async def test_idle_models_are_unloaded(tmp_path: Path) -> None:
    async with running(fake_group(tmp_path, _={"idle_seconds": 0.1}, a={})) as served:
        assert (await ask(served, "a"))[0] == 200
        host = served.gateway.of_file()[0].gate.endpoint
        await eventually(lambda: _is_gone(host, "a"))
        assert (await ask(served, "a"))[0] == 200


async def _is_gone(host: Any, key: str) -> bool:
    return host.find(key).charge == 0


async def test_a_worker_without_its_framework_is_told_of_and_other_groups_answer(
    tmp_path: Path,
) -> None:
    lacking = fake_group(tmp_path / "1", name="lacking", x={})
    options = {"runtime": "no-such-runtime"}
    lacking = lacking.model_copy(update=options)
    async with running(fake_group(tmp_path, a={}), lacking, until=None) as served:
        failed = await served.until("failed", "lacking")
        assert "there is no runtime 'no-such-runtime'" in failed.detail
        await served.until("ready", "zoo")
        assert (await ask(served, "a"))[0] == 200
        assert (await ask(served, "x"))[0] == 503


async def test_openai_routes_and_oip_routes_each_point_to_the_other(
    tmp_path: Path, models: Any
) -> None:
    async with running(fake_group(tmp_path, z={}), models.group()) as served:
        status, answer = await ask(served, "a")
        assert (status, "ask it at /v1/chat/completions" in answer["error"]) == (400, True)
        async with served.chat("hello", model="z") as response:
            assert response.status == 400
            assert "ask it at /v2/models/z/infer" in (await response.json())["error"]["message"]


async def test_metrics_tell_of_every_model_and_of_the_budget(tmp_path: Path) -> None:
    async with running(fake_group(tmp_path, _={"memory_mib": 32}, a={}, b={})) as served:
        for _ in range(3):
            assert await _answers(served, "a")
        lines = (await served.text("/metrics")).splitlines()
        labels = 'group="zoo",model="a",version="1"'
        assert f"nv_inference_request_success{{{labels}}} 3" in lines
        assert f"stackserve_model_loads{{{labels}}} 1" in lines
        assert f'stackserve_models_budget_bytes{{group="zoo"}} {32 * MIB}' in lines
        assert 'stackserve_models_resident{group="zoo"} 1' in lines


async def test_bad_requests_get_an_error_and_nothing_else(tmp_path: Path) -> None:
    async with running(fake_group(tmp_path, a={}), max_body_mib=1) as served:
        cases: list[tuple[str, str, dict[str, Any], int]] = [
            ("POST", "/v2/models/a/infer", {"data": b"{"}, 400),
            ("POST", "/v2/models/a/infer", {"data": io.BytesIO(b"x" * (2 << 20))}, 413),
            ("POST", "/v2/models/a/infer", {"data": b"{}", "headers": _length("-1")}, 400),
            ("POST", "/v2/models/a/infer", {"data": b"{}", "headers": _length("99")}, 400),
            ("POST", "/v2/models/nope/infer", {"json": question([1.0])}, 404),
            ("GET", "/v2/models/nope/ready", {}, 404),
            ("GET", "/v2/models/a/infer", {}, 405),
            ("POST", "/v2/repository/models/nope/load", {}, 404),
            ("POST", "/v2/repository/models/nope/unload", {}, 200),
            ("POST", "/v2/repository/index", {}, 200),
            ("GET", "/v2/nothing", {}, 404),
        ]
        for method, path, more, status in cases:
            async with served.http.request(method, path, **more) as response:
                body = await response.read()
                assert response.status == status, (path, body)
                if status >= 400:
                    assert list(json.loads(body)) == ["error"]
        assert (await ask(served, "a"))[0] == 200


def _length(written: str) -> dict[str, str]:
    return {"Inference-Header-Content-Length": written}


async def test_without_a_key_the_protocols_error_is_given(tmp_path: Path) -> None:
    keys = AuthSettings(mode="bearer", bearer_keys=(BearerKeySettings(name="me", sha256="0" * 64),))
    async with running(fake_group(tmp_path, a={}), auth=keys) as served:
        for path in ("/v2", "/v2/models/a/ready"):
            async with served.http.get(path) as response:
                assert (response.status, list(await response.json())) == (401, ["error"])


async def test_a_client_that_goes_away_leaves_nothing_behind(tmp_path: Path) -> None:
    group = fake_group(tmp_path, _={"max_in_flight": 1}, a={"sleep_seconds": 0.3})
    async with running(group) as served:
        assert (await ask(served, "a"))[0] == 200
        try:
            timeout = aiohttp.ClientTimeout(total=0.05)
            url = "/v2/models/a/infer"
            async with served.http.post(url, json=question([1.0]), timeout=timeout):
                pass
        except TimeoutError:
            pass

        async def free() -> bool:
            return (await ask(served, "a"))[0] == 200

        await eventually(free)
        assert served.status("zoo").in_flight == 0
