"""What a group runs, uploaded and downloaded through the official client."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

from oci.data_science import models as m

from tests.oci.conftest import Story
from tests.oci.served import OWNER, Served, refused

SCORE = {"score.py": b"def predict(data): ...\n", "runtime.yaml": b"{}\n"}


def group(
    served: Served, model: str, kind: Any = m.HomogeneousModelGroupDetails, **more: Any
) -> str:
    member = m.MemberModelDetails(inference_key="k", model_id=model)
    details = m.CreateModelGroupDetails(
        **OWNER,
        model_group_details=kind(),
        member_model_entries=m.MemberModelEntries(member_model_details=[member]),
        **more,
    )
    return str(served.client.create_model_group(details).data.id)


def bundle(files: dict[str, bytes] = SCORE) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def files_in(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


async def test_a_bundle_is_taken_whatever_its_content_type_and_comes_back_with_the_models(
    story: Story, tmp_path: Path
) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        identifier = group(served, adapter)
        client.create_model_group_artifact(identifier, bundle())  # as application/json
        with io.BytesIO(bundle()) as again:  # the same files; as application/octet-stream
            client.create_model_group_artifact(identifier, again)
        files = files_in(client.get_model_group_artifact_content(identifier).data.content)
        assert {name: files[f"group/{name}"] for name in SCORE} == SCORE
        assert f"models/{adapter}/adapter_model.safetensors" in files
        with refused(409, "Conflict", "has an artifact, which never changes"):
            client.create_model_group_artifact(identifier, bundle({"score.py": b"other"}))

    await story(words)


async def test_a_download_can_be_uploaded_elsewhere(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        stack = served.group(base, {"a": adapter})
        whole = client.get_model_group_artifact_content(stack).data.content
        other = group(served, adapter)
        client.create_model_group_artifact(other, whole)
        copied = files_in(client.get_model_group_artifact_content(other).data.content)
        for name, content in files_in(whole).items():
            assert copied[f"group/{name}"] == content

    await story(words)


async def test_a_download_has_a_file_name_whatever_the_group_is_called(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        for name in ('quo"te', "line\r\nx-injected: 1", "é", "群", "a/../b", "x" * 255):
            identifier = group(served, adapter, display_name=name)
            headers = served.client.head_model_group_artifact(identifier).headers
            assert "x-injected" not in headers
            assert headers["content-disposition"].startswith("attachment; filename=")
            assert int(headers["content-length"]) > 0

    await story(words)


async def test_a_range_of_a_download_is_that_part_of_it(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        identifier = group(served, adapter)
        whole = client.get_model_group_artifact_content(identifier).data.content
        size = len(whole)
        for asked, part in {
            "0-0": whole[:1],
            "7-": whole[7:],
            "-5": whole[-5:],
            f"-{size + 9}": whole,
            f"{size - 1}-{size + 9}": whole[-1:],
        }.items():
            answer = client.get_model_group_artifact_content(identifier, range=f"bytes={asked}")
            assert (answer.status, answer.data.content) == (206, part), asked
        for asked in (f"{size}-", "5-4", "-0", "-", "x", "0-1,3-4", "9" * 5000 + "-"):
            with refused(416, "InvalidParameter", "range bytes="):
                client.get_model_group_artifact_content(identifier, range=f"bytes={asked}")

    await story(words)


async def test_what_is_no_bundle_is_refused_and_changes_nothing(story: Story) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        identifier = group(served, adapter)
        etag = client.get_model_group(identifier).headers["etag"]
        for content, sentence in (
            (b"", "not a zip, tar or tar.gz"),
            (b"no zip", "not a zip, tar or tar.gz"),
            (bundle()[:-9], "archive is broken"),
            (bundle({"../score.py": b"x"}), "has an entry"),
            (bundle({}), "has no files"),
        ):
            with refused(400, "InvalidParameter", sentence):
                client.create_model_group_artifact(identifier, content)
        with refused(412, "NoEtagMatch", "changed meanwhile"):
            client.create_model_group_artifact(identifier, bundle(), if_match="0")
        assert client.get_model_group(identifier).headers["etag"] == etag
        names = files_in(client.get_model_group_artifact_content(identifier).data.content)
        assert not [name for name in names if name.startswith("group/")]

    await story(words)


async def test_a_heterogeneous_group_takes_no_artifact_and_an_unknown_one_is_not_found(
    story: Story,
) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        client = served.client
        identifier = group(served, adapter, m.HeterogeneousModelGroupDetails)
        with refused(409, "Conflict", "HETEROGENEOUS, which takes no artifact"):
            client.create_model_group_artifact(identifier, bundle())
        for call in (
            lambda: client.create_model_group_artifact("ocid1.nobody", bundle()),
            lambda: client.get_model_group_artifact_content("ocid1.nobody"),
        ):
            with refused(404, "NotAuthorizedOrNotFound", "no group ocid1.nobody"):
                call()

    await story(words)
