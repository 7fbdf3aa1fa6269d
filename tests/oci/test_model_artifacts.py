"""Artifacts of models through the official client: taken in, refused, downloaded."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import oci
import pytest
from oci.data_science import models as m

from stackserve.oci.api import PREFIX
from stackserve.oci.content import MOST_UPLOADS
from tests.conftest import Models
from tests.oci.artifacts import (
    CONFIG,
    PATIENCE,
    WEIGHTS,
    empty,
    facts,
    files_of,
    kept,
    until,
)
from tests.oci.conftest import Story
from tests.oci.served import Served, refused, zipped
from tests.store.archives import read, tarred
from tests.tiny_models import Adapters, filled, key


async def test_what_is_uploaded_is_known_by_kind_and_facts(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        assert facts(served, empty(served)) is None
        known = facts(served, base)
        assert (known["kind"], known["facts"]["architecture"]) == ("base", "LlamaForCausalLM")
        known = facts(served, adapter)
        assert known["kind"] == "adapter"
        assert known["facts"]["target_modules"] == ["q_proj", "v_proj"]
        assert (known["facts"]["rank"], known["facts"]["base_model_name"]) == (2, "a")

    await story(words)


async def test_an_upload_is_answered_with_an_etag_and_work_that_is_done(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        model = empty(served)
        content = served.client.get_model_artifact_content(adapter).data.content
        answer = served.client.create_model_artifact(model, content)
        assert answer.status == 204
        assert answer.headers["etag"] == served.client.get_model(model).headers["etag"]
        assert served.done(answer) == "SUCCEEDED"

    await story(words)


async def test_an_artifact_comes_back_as_it_was_sent_whatever_it_was_packed_with(
    story: Story, models: Models
) -> None:
    files = read(models.adapter("a"))
    inside = [(f"folder/{name}", content) for name, content in files.items()]
    packed = [zipped(models.adapter("a")), tarred(files.items()), tarred(inside, "w:gz")]

    def words(served: Served, base: str, adapter: str) -> None:
        for content in packed:
            model = empty(served)
            served.client.create_model_artifact(model, content)
            assert files_of(served, model) == files
            assert facts(served, model) == facts(served, adapter)

    await story(words)


async def test_an_upload_may_come_in_chunks_with_any_content_type(
    story: Story, models: Models
) -> None:
    content = zipped(models.adapter("a"))

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(content), 100):
            yield content[start : start + 100]

    def words(served: Served, base: str, adapter: str) -> None:
        for kind in ("application/json", "multipart/form-data", "text/plain; charset=utf-16"):
            model = empty(served)
            answer = httpx.post(
                f"{served.url}{PREFIX}/models/{model}/artifact",
                content=pieces(),
                headers={"content-type": kind, "content-disposition": 'filename="../x"'},
            )
            assert (answer.status_code, answer.content) == (204, b"")
            assert facts(served, model) == facts(served, adapter)

    await story(words)


async def test_an_artifact_never_changes(story: Story, models: Models) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        before = facts(served, adapter)
        served.client.create_model_artifact(adapter, zipped(models.adapter("a")))
        with refused(409, "Conflict", f"{adapter} has an artifact, which never changes"):
            served.client.create_model_artifact(adapter, zipped(models.adapter("b")))
        assert facts(served, adapter) == before

    await story(words)


async def test_of_two_artifacts_that_come_at_once_one_is_taken(
    story: Story, models: Models
) -> None:
    packed = [zipped(models.adapter(name)) for name in ("a", "b", "c", "d")]

    def words(served: Served, base: str, adapter: str) -> None:
        model = empty(served)

        def upload(content: bytes) -> int:
            try:
                return int(served.client.create_model_artifact(model, content).status)
            except oci.exceptions.ServiceError as error:
                return int(error.status)

        with ThreadPoolExecutor(4) as threads:
            assert sorted(threads.map(upload, packed)) == [204, 409, 409, 409]
        assert facts(served, model)["kind"] == "adapter"

    await story(words)


async def test_the_same_files_that_come_at_once_are_kept_once(
    story: Story, models: Models, tmp_path: Path
) -> None:
    content = zipped(models.adapter("same"))

    def words(served: Served, base: str, adapter: str) -> None:
        made = [empty(served) for _ in range(8)]
        before = len(kept(tmp_path))
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda each: served.client.create_model_artifact(each, content), made))
        assert len({facts(served, each)["artifactDigest"] for each in made}) == 1
        assert len(kept(tmp_path)) == before + 1

    await story(words)


async def test_a_bad_adapter_is_refused_by_its_code_and_nothing_is_kept(
    story: Story, tmp_path: Path
) -> None:
    make = Adapters(tmp_path / "bad")
    q = "model.layers.0.self_attn.q_proj"
    bad = {
        "file_missing": (make.make(), lambda folder: os.remove(folder / WEIGHTS)),
        "config_invalid": (make.make(), lambda folder: (folder / CONFIG).write_text("{")),
        "unsupported_feature": (make.make({"use_dora": True}), None),
        "value_nan": (make.make(None, {key(q, "A"): filled((2, 8), float("nan"))}), None),
    }

    def words(served: Served, base: str, adapter: str) -> None:
        model, before = empty(served), kept(tmp_path)
        for code, (folder, spoil) in bad.items():
            if spoil is not None:
                spoil(folder)
            answer = httpx.post(
                f"{served.url}{PREFIX}/models/{model}/artifact", content=zipped(folder)
            )
            assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")
            assert answer.json()["reason"] == code
            assert facts(served, model) is None
        assert kept(tmp_path) == before

    await story(words)


async def test_what_is_no_archive_is_refused_and_the_model_can_still_have_one(
    story: Story, models: Models, tmp_path: Path
) -> None:
    content = zipped(models.adapter("a"))

    def words(served: Served, base: str, adapter: str) -> None:
        model, before = empty(served), kept(tmp_path)
        for broken in (b"", b"{}", content[:-30]):
            with refused(400, "InvalidParameter", "archive|artifact"):
                served.client.create_model_artifact(model, broken)
        assert kept(tmp_path) == before
        served.client.create_model_artifact(model, content)
        assert facts(served, model) == facts(served, adapter)

    await story(words)


async def test_a_model_that_is_not_there_is_told_so_also_to_who_sends_much(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        with refused(404, "NotAuthorizedOrNotFound", "there is no model ocid1.none"):
            served.client.create_model_artifact("ocid1.none", bytes(32 << 20))

    await story(words)


class Upload:
    """An upload whose bytes are sent by hand."""

    def __init__(self, served: Served, model: str) -> None:
        url = httpx.URL(served.url)
        self._socket = socket.create_connection((url.host, url.port))
        head = f"POST {PREFIX}/models/{model}/artifact HTTP/1.1\r\nhost: x\r\n"
        self._socket.sendall(f"{head}content-length: 1000000\r\n\r\nPK".encode())

    def answer(self) -> bytes:
        """All that is said before the server hangs up."""
        self._socket.settimeout(PATIENCE)
        return b"".join(iter(lambda: self._socket.recv(1 << 16), b""))

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


async def test_an_upload_that_breaks_off_leaves_nothing_and_is_no_bug(
    story: Story, models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        model, before = empty(served), kept(tmp_path)
        with Upload(served, model):
            until(lambda: len(kept(tmp_path)) == len(before) + 1)
        until(lambda: kept(tmp_path) == before)
        served.client.create_model_artifact(model, zipped(models.adapter("a")))
        assert facts(served, model) == facts(served, adapter)
        assert not [each for each in caplog.records if each.levelname == "ERROR"]

    await story(words)


async def test_an_upload_that_stands_still_is_ended(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackserve.oci.content.MOST_SECONDS_STILL", 0.2)

    def words(served: Served, base: str, adapter: str) -> None:
        with Upload(served, empty(served)) as upload:
            answer = upload.answer()
        assert b" 400 " in answer.splitlines()[0]
        assert b"nothing of the upload came for" in answer

    await story(words)


async def test_slow_uploads_hold_up_no_other_call(story: Story, tmp_path: Path) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        model, before = empty(served), len(kept(tmp_path))
        with ExitStack() as stack:
            for _ in range(2 * MOST_UPLOADS):
                stack.enter_context(Upload(served, model))
            until(lambda: len(kept(tmp_path)) >= before + MOST_UPLOADS)
            answer = httpx.get(f"{served.url}{PREFIX}/models/{base}", timeout=PATIENCE)
            assert answer.status_code == 200

    await story(words)


async def test_any_range_of_an_artifact_is_the_bytes_of_the_whole(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        head = client.head_model_artifact(adapter).headers
        whole = client.get_model_artifact_content(adapter)
        size, sent = int(head["content-length"]), whole.data.content
        assert (whole.status, len(sent)) == (200, size)
        assert head["etag"] == whole.headers["etag"] == facts(served, adapter)["artifactDigest"]
        assert head["accept-ranges"] == "bytes"
        for asked, part in {
            "bytes=0-0": slice(0, 1),
            "bytes=7-99": slice(7, 100),
            "bytes=100-": slice(100, None),
            "bytes=-9": slice(size - 9, None),
            f"bytes=10-{size * 2}": slice(10, None),
        }.items():
            answer = client.get_model_artifact_content(adapter, range=asked)
            assert (answer.status, answer.data.content) == (206, sent[part]), asked
            start = range(size)[part]
            assert answer.headers["content-range"] == f"bytes {start[0]}-{start[-1]}/{size}"

    await story(words)


async def test_a_range_behind_the_end_is_refused(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        size = int(served.client.head_model_artifact(adapter).headers["content-length"])
        for asked in (f"bytes={size}-", "bytes=-0", "bytes=5-4", f"bytes={'9' * 5000}-"):
            with refused(416, "InvalidParameter", "range"):
                served.client.get_model_artifact_content(adapter, range=asked)

    await story(words)


async def test_a_download_is_called_like_its_model_whatever_that_is_called(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        for name in ('say "hi"\r\nx-y: z', "数字 modèle"):
            served.client.update_model(adapter, m.UpdateModelDetails(display_name=name))
            answer = served.client.get_model_artifact_content(adapter)
            assert answer.status == 200
            assert "x-y" not in answer.headers

    await story(words)


async def test_a_model_without_an_artifact_has_no_content(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        with refused(409, "Conflict", "has no artifact; upload one first"):
            served.client.get_model_artifact_content(empty(served))

    await story(words)


async def test_object_storage_is_refused_with_what_to_use(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        source = m.ArtifactImportDetailsObjectStorage(namespace="n")
        target = m.ArtifactExportDetailsObjectStorage(namespace="n")
        reference = m.OSSModelArtifactReferenceDetails(namespace="n", bucket_name="b", prefix="p")
        details = m.RegisterModelArtifactReferenceDetails(model_artifact_references=[reference])
        for call in (
            lambda: client.import_model_artifact(
                adapter, m.ImportModelArtifactDetails(artifact_import_details=source)
            ),
            lambda: client.export_model_artifact(
                adapter, m.ExportModelArtifactDetails(artifact_export_details=target)
            ),
            lambda: client.register_model_artifact_reference(details, adapter),
        ):
            with refused(400, "InvalidParameter", "upload the artifact"):
                call()

    await story(words)
