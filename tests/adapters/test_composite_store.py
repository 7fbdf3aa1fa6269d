"""Composites in the store: built once, kept under their digest, built again when damaged or gone."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stackserve.adapters import (
    AdapterLimits,
    AdapterStore,
    BaseArchitecture,
    Composite,
    ValidatedAdapter,
)
from stackserve.adapters import store as store_module
from tests.adapters.composite_parts import WEIGHTS, stored


def test_it_is_kept_read_only_under_its_digest(
    composite: Any, load: Any, store: AdapterStore, tmp_path: Path
) -> None:
    mixed = load(composite(bf16=0.7, patterns=1))
    assert mixed.folder == tmp_path / "store" / mixed.digest == store.verify(mixed.digest)
    assert stored(tmp_path / "store") == {mixed.digest}
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (mixed.folder, *mixed.folder.iterdir())]
    assert modes == [0o555, 0o444, 0o444]


@pytest.fixture
def builds(monkeypatch: Any) -> list[Composite]:
    """What the store builds from now on."""
    built: list[Composite] = []
    real = store_module.build_composite

    def build(composite: Composite, *args: Any) -> ValidatedAdapter:
        built.append(composite)
        return real(composite, *args)

    monkeypatch.setattr(store_module, "build_composite", build)
    return built


def test_it_is_built_once(composite: Any, load: Any, builds: list[Composite]) -> None:
    first = load(composite(bf16=0.7, patterns=1))
    assert load(composite(patterns=1, bf16=0.7)) == first
    assert len(builds) == 1


@pytest.mark.parametrize("harm", ["bytes", "gone", "link"])
def test_what_is_damaged_or_gone_is_built_again(
    composite: Any, load: Any, builds: list[Composite], store: AdapterStore, tmp_path: Path, harm: str
) -> None:  # fmt: skip
    mix = composite(bf16=0.7, patterns=1)
    mixed = load(mix)
    link = tmp_path / "store" / "composites" / mix.recipe
    if harm == "bytes":
        os.chmod(mixed.folder / WEIGHTS, 0o600)
        content = (mixed.folder / WEIGHTS).read_bytes()
        (mixed.folder / WEIGHTS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "gone":
        assert store.collect(set()) == mixed.size_bytes
        assert not list(link.parent.iterdir())
    else:
        link.unlink()
        link.symlink_to("0" * 64)
    assert load(mix) == mixed
    assert len(builds) == 2
    assert load(mix) == mixed
    assert len(builds) == 2
    assert store.verify(mixed.digest)


def test_collect_keeps_the_composites_that_it_is_told_to_keep(
    composite: Any, load: Any, builds: list[Composite], store: AdapterStore
) -> None:
    kept, dropped = load(composite(bf16=0.7)), load(composite(bf16=0.8))
    assert store.collect({kept.digest}) == dropped.size_bytes
    load(composite(bf16=0.7))
    assert len(builds) == 2


def test_one_built_before_is_held_to_todays_limits(
    composite: Any, load: Any, base: BaseArchitecture, store: AdapterStore, refused: Any
) -> None:
    load(composite(bf16=0.7, patterns=1))
    with refused("rank_over_limit", "over the limit of 4"):
        store.import_adapter(composite(bf16=0.7, patterns=1), base, AdapterLimits(4, 1 << 20))


def test_threads_that_build_one_composite_at_once_all_succeed(
    composite: Any, load: Any, tmp_path: Path
) -> None:
    mix = composite(bf16=0.7, patterns=1)
    with ThreadPoolExecutor(4) as pool:
        digests = {adapter.digest for adapter in pool.map(lambda _: load(mix), range(12))}
    assert stored(tmp_path / "store") == digests
    assert [path.name for path in (tmp_path / "store" / "composites").iterdir()] == [mix.recipe]


@pytest.mark.parametrize("failing", ["fsync", "rename", "symlink"])
def test_a_full_disk_is_a_refusal_that_leaves_nothing_half_made(
    composite: Any, load: Any, tmp_path: Path, refused: Any, monkeypatch: Any, failing: str
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    mix = composite(bf16=0.7)
    with monkeypatch.context() as patched:
        patched.setattr(os, failing, full)
        with refused("store_full", " bytes"):
            load(mix)
    assert not [name for name in stored(tmp_path / "store") if name.startswith(".")]
    assert stored(tmp_path / "store") - {load(mix).digest} == set()
