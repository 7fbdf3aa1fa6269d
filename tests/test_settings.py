"""The settings: documented as they are, and the files in configs/ say what they mean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stackserve.check import check
from stackserve.configfile import load_settings, resolve_path
from stackserve.engine_settings import EngineSettings
from stackserve.options import SECTIONS, reference
from stackserve.settings import Settings
from tests.conftest import Models

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PAGE = (ROOT / "docs" / "configuration.md").read_text()


def linked(config: Path, folder: Path, models: Models) -> Path:
    """A copy of a configuration whose paths are links to tiny models."""
    copy = folder / config.name
    copy.write_text(config.read_text())
    for group in load_settings(copy).groups:
        for model in group.models:
            link = resolve_path(model.path, copy)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(models.base if model is group.base else models.adapter(model.key))
    return copy


def test_the_page_has_exactly_the_generated_tables() -> None:
    printed = subprocess.run(
        (sys.executable, "-m", "stackserve.options"), capture_output=True, text=True, check=True
    ).stdout
    assert printed == reference()
    assert reference() in PAGE, "put the output of `python -m stackserve.options` into the page"


@pytest.mark.parametrize("section", SECTIONS.values(), ids=lambda section: section.__name__)
def test_every_option_has_a_meaning(section: type[EngineSettings]) -> None:
    assert all(option.description for option in section.model_fields.values())


def test_the_pages_smallest_file_is_configs_minimal() -> None:
    lines = (ROOT / "configs" / "minimal.yaml").read_text().splitlines()
    code = "\n".join(line.partition(" #")[0] for line in lines if not line.startswith("#"))
    assert f"```yaml\n{code}\n```" in PAGE


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_file_in_configs_loads(config: Path) -> None:
    assert load_settings(config).groups


@pytest.mark.parametrize("name", ["minimal.yaml", "two-groups.yaml"])
def test_check_reads_every_member_of_a_file(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    config = linked(ROOT / "configs" / name, tmp_path, models)
    assert check(config) == 0
    printed = capsys.readouterr().out
    for group in load_settings(config).groups:
        assert f"{group.name}: version " in printed
        assert all(f"  {model.key}: " in printed for model in group.models)


def test_check_shows_what_a_composite_is_made_of(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = linked(ROOT / "configs" / "two-groups.yaml", tmp_path, models)
    mix = "groups.0.members.1={key: mix, adapters: {tickets: -0.25}}"
    assert check(config, [mix]) == 0
    assert "  mix: tickets x -0.25, rank 2, " in capsys.readouterr().out


def test_check_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(ROOT / "configs" / "minimal.yaml") == 1
    assert "support: the base: " in (printed := capsys.readouterr().out)
    assert "(base_missing)" in printed


def test_check_refuses_one_member_and_reads_the_others(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = linked(ROOT / "configs" / "two-groups.yaml", tmp_path, models)
    assert check(config, ["groups.0.members.0.path=nowhere"]) == 1
    printed = capsys.readouterr().out
    assert "tickets: The adapter folder does not exist" in printed
    assert "  refunds: rank 2" in printed


def test_a_model_id_is_the_groups_name_and_the_key_unless_it_is_given() -> None:
    support, _ = load_settings(ROOT / "configs" / "two-groups.yaml").groups
    assert [support.model_id_of(model) for model in support.models] == [
        "support/support-base",
        "ocid1.generativeaimodel.oc1..tickets",
        "support/refunds",
    ]


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        EngineSettings().seed = 1  # type: ignore[misc]


def test_settings_survive_json() -> None:
    settings = load_settings(ROOT / "configs" / "two-groups.yaml")
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
