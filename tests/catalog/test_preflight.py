"""What is found wrong with a stacked group before an engine starts, and what it will cost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from stackserve.catalog import preflight
from stackserve.catalog.artifacts import Shelf
from stackserve.catalog.preflight import Finding, MemberArtifact, check_stacked
from stackserve.files import file_sha256
from stackserve.store import manifest
from stackserve.store.artifacts import ArtifactStore
from stackserve.store.tables import Artifact
from tests.conftest import Models
from tests.store.archives import read, zipped
from tests.tiny_models import (
    HIDDEN,
    INTERMEDIATE,
    KV,
    LAYERS,
    VOCABULARY,
    Adapters,
    default_tensors,
    filled,
    key,
    write_base,
)

WIDTH_OF_A_LAYER = (
    2 * (HIDDEN + HIDDEN)  # q and o
    + 2 * (HIDDEN + KV)  # k and v
    + 3 * (HIDDEN + INTERMEDIATE)  # gate, up and down
)
WIDTH = LAYERS * WIDTH_OF_A_LAYER + 2 * (HIDDEN + VOCABULARY)  # and the embeddings
BF16 = 2


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(ArtifactStore(tmp_path / "artifacts"), [tmp_path])


@pytest.fixture
def make(tmp_path: Path) -> Adapters:
    return Adapters(tmp_path / "made")


def kept(arriving: AbstractContextManager[Artifact]) -> Artifact:
    with arriving as artifact:
        return artifact


def upload(shelf: Shelf, folder: Path) -> Artifact:
    return kept(shelf.receive([zipped(read(folder).items())]))


def member(artifact: Artifact | None, number: int = 0) -> MemberArtifact:
    return MemberArtifact(f"members.{number}.modelId", f"m{number}", artifact)


@pytest.fixture
def base(shelf: Shelf, models: Models) -> MemberArtifact:
    return MemberArtifact("baseModelId", "b", upload(shelf, models.base))


def test_a_stack_costs_slots_on_the_device_and_all_adapters_on_the_host(
    shelf: Shelf, base: MemberArtifact, make: Adapters
) -> None:
    small = upload(shelf, make.make())
    make.defaults = default_tensors(rank=9)
    large = upload(shelf, make.make({"r": 9}))
    found = check_stacked(base, [member(small), member(large, 1)], shelf)
    assert (found.findings, found.notes) == ((), ())
    assert found.cost is not None
    assert (found.cost.slot_rank, found.cost.slots) == (16, 2)
    assert found.cost.slot_bytes == 16 * WIDTH * BF16
    assert found.cost.device_bytes == 2 * 16 * WIDTH * BF16
    assert found.cost.adapter_bytes == small.size_bytes + large.size_bytes


def test_there_are_at_most_eight_slots_unless_somebody_says_otherwise(
    shelf: Shelf, base: MemberArtifact, make: Adapters
) -> None:
    members = [
        member(upload(shelf, make.make({"base_model_name_or_path": f"{n}"})), n) for n in range(9)
    ]
    found = check_stacked(base, members, shelf)
    assert found.cost is not None
    assert (found.cost.slots, found.cost.slot_rank) == (8, 8)


def test_a_base_alone_costs_no_slots(shelf: Shelf, base: MemberArtifact) -> None:
    found = check_stacked(base, [], shelf)
    assert found.findings == ()
    assert found.cost is not None
    assert (found.cost.slots, found.cost.slot_bytes, found.cost.device_bytes) == (0, 0, 0)


def test_every_adapter_that_cannot_be_served_is_found_at_its_place(
    shelf: Shelf, base: MemberArtifact, make: Adapters, tmp_path: Path
) -> None:
    good = upload(shelf, make.make())
    module = "model.layers.7.self_attn.q_proj"
    beyond = make.make(
        None, {key(module, "A"): filled((2, HIDDEN)), key(module, "B"): filled((HIDDEN, 2))}
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.pkl").write_bytes(b"x")
    members = [
        member(good),
        member(None, 1),
        member(base.artifact, 2),
        member(upload(shelf, other), 3),
        member(upload(shelf, beyond), 4),
    ]
    found = check_stacked(base, members, shelf)
    assert [(each.field, each.code) for each in found.findings] == [
        ("members.1.modelId", "artifact_missing"),
        ("members.2.modelId", "wrong_kind"),
        ("members.3.modelId", "wrong_kind"),
        ("members.4.modelId", "layer_out_of_range"),
    ]
    assert "m1 has no artifact" in found.findings[0].message
    assert "model.layers.7.self_attn.q_proj" in found.findings[3].message
    assert found.cost is None


@pytest.mark.parametrize("wrong", ["none", "adapter"])
def test_what_is_no_base_is_the_only_finding(
    wrong: str, shelf: Shelf, make: Adapters, base: MemberArtifact
) -> None:
    adapter = upload(shelf, make.make())
    artifact = adapter if wrong == "adapter" else None
    found = check_stacked(MemberArtifact("baseModelId", "b", artifact), [member(adapter)], shelf)
    code = "wrong_kind" if wrong == "adapter" else "artifact_missing"
    assert [(each.field, each.code) for each in found.findings] == [("baseModelId", code)]


def test_a_base_on_which_no_adapter_is_served_is_told_once_and_not_by_each_adapter(
    shelf: Shelf, make: Adapters, tmp_path: Path
) -> None:
    folder = write_base(tmp_path / "strange", {"architectures": ["StrangeForCausalLM"]})
    base = MemberArtifact("baseModelId", "b", upload(shelf, folder))
    adapter = upload(shelf, make.make())
    found = check_stacked(base, [member(adapter), member(adapter, 1)], shelf)
    assert [(each.field, each.code) for each in found.findings] == [
        ("baseModelId", "base_architecture_unsupported")
    ]


def test_the_same_bytes_under_two_models_are_noted_and_no_fault(
    shelf: Shelf, base: MemberArtifact, make: Adapters
) -> None:
    adapter = upload(shelf, make.make())
    found = check_stacked(base, [member(adapter), member(adapter, 1)], shelf)
    assert found.findings == ()
    assert found.notes == ("members.1.modelId: m1 has the same bytes as m0",)


def test_an_adapter_is_checked_against_a_base_once(
    shelf: Shelf, base: MemberArtifact, make: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Path] = []
    check = preflight.check_fit

    def counted(folder: Path, *more: Any) -> None:
        checked.append(folder)
        check(folder, *more)

    monkeypatch.setattr(preflight, "check_fit", counted)
    adapter = upload(shelf, make.make())
    for _ in range(3):
        check_stacked(base, [member(adapter)], shelf)
    assert len(checked) == 1


def test_an_artifact_that_the_disk_has_lost_is_found_at_its_member(
    shelf: Shelf, base: MemberArtifact, make: Adapters, tmp_path: Path
) -> None:
    adapter = upload(shelf, make.make())
    lost = tmp_path / "artifacts" / adapter.digest
    os.chmod(lost / "files", 0o700)
    (lost / "files" / "adapter_model.safetensors").unlink()
    found = check_stacked(base, [member(adapter)], shelf)
    assert [each.code for each in found.findings] == ["artifact_damaged"]
    assert "adapter_model.safetensors: it is missing" in found.findings[0].message


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda folder: (folder / "config.json").write_text("{}"), "artifact_damaged"),
        (lambda folder: (folder / "more.txt").write_text("x"), "artifact_damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "artifact_damaged"),
        (lambda folder: (folder / "link").symlink_to(folder), "artifact_not_regular"),
        (shutil.rmtree, "folder_missing"),
    ],
)
def test_a_registered_base_that_has_changed_is_told_once(
    spoil: Callable[[Path], Any], code: str, shelf: Shelf, make: Adapters, tmp_path: Path
) -> None:
    folder = write_base(tmp_path / "base")
    base = MemberArtifact("baseModelId", "b", kept(shelf.register(str(folder))))
    adapters = [member(upload(shelf, make.make()))] * 2
    assert check_stacked(base, adapters, shelf).findings == ()
    spoil(folder)
    findings: tuple[Finding, ...] = check_stacked(base, adapters, shelf).findings
    assert [(each.field, each.code) for each in findings] == [("baseModelId", code)]


def test_a_registered_base_is_read_again_only_when_it_was_touched(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_base(tmp_path / "base")
    artifact = kept(shelf.register(str(folder)))
    reads: list[Path] = []

    def counted(path: Path) -> str:
        reads.append(path)
        return file_sha256(path)

    monkeypatch.setattr(manifest, "file_sha256", counted)
    shelf.folder(artifact)
    assert reads == []
    os.utime(folder / "config.json", ns=(1, 1))
    shelf.folder(artifact)
    assert sorted(path.name for path in reads) == ["config.json", "model.safetensors"]
    shelf.folder(artifact)
    assert len(reads) == 2
