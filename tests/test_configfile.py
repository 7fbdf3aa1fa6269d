"""Reading a configuration file: every mistake is named by file, line, key, value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stackserve import configfile
from stackserve.configfile import load_settings, resolve_path
from stackserve.errors import ArtifactRejected, ConfigError
from stackserve.settings import Settings

GROUP = "groups:\n  - name: g\n    base: {path: b}\n"
"""A complete file of three lines; mistakes follow on line 4."""

ENGINE = GROUP + "    engine: {%s}\n"
MEMBERS = GROUP + "    members: [%s]\n"
COMPOSITE = MEMBERS % "{key: a, path: x}, {key: b, adapters: {a: 2}}, {key: c, adapters: {%s}}"
ALIAS = GROUP + "    members: [{key: a, path: x}]\n    aliases: [{%s}]\n"
BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def load(folder: Path, text: str | bytes, *overrides: str) -> Settings:
    file = folder / "c.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_settings(file, overrides)


def mistakes(folder: Path, text: str | bytes, *overrides: str) -> list[str]:
    """The lines of the error, each without the file's folder."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    assert caught.value.code == "invalid_config"
    return caught.value.message.replace(f"{folder}/", "").splitlines()


ZOO = "groups:\n  - name: zoo\n    kind: homogeneous\n"

MISTAKES = [
    # keys
    (ENGINE % "dtpye: auto", "c.yaml:4: groups.0.engine.dtpye: unknown key; did you mean dtype? allowed: adapter_memory_"),
    (GROUP + "sever: {}\n", "c.yaml:4: sever: unknown key; did you mean server? allowed: groups, server"),
    (GROUP + "    zzz: 1\n", "c.yaml:4: groups.0.zzz: unknown key; allowed: aliases, base, engine, kind, members, name"),
    (GROUP + "    1: 2\n", "c.yaml:2: groups.0.1: 1 is not allowed: Keys should be strings"),
    (GROUP + "    name: h\n", "c.yaml:4: name: this key is written twice; keep one"),
    ("server: {port: 1, port: 2}\n" + GROUP, "c.yaml:1: port: this key is written twice; keep one"),
    ("server: {}\n", "c.yaml:1: groups: is required"),
    ("groups:\n  - name: g\n", "c.yaml:2: groups.0.base: is required"),
    ("groups:\n  - name: g\n    base: {}\n", "c.yaml:3: groups.0.base.path: is required"),
    # values
    (ENGINE % "max_num_seqs: many", "c.yaml:4: groups.0.engine.max_num_seqs: 'many' is not allowed: should be a valid integer"),
    (ENGINE % "max_num_seqs: '3'", "c.yaml:4: groups.0.engine.max_num_seqs: '3' is not allowed: should be a valid integer"),
    (ENGINE % "max_num_seqs: 0", "c.yaml:4: groups.0.engine.max_num_seqs: 0 is not allowed: should be greater than or equal to 1"),
    (ENGINE % "enforce_eager: 1", "c.yaml:4: groups.0.engine.enforce_eager: 1 is not allowed: should be a valid boolean"),
    (ENGINE % "dtype: int8", "c.yaml:4: groups.0.engine.dtype: 'int8' is not allowed: should be 'auto', 'bfloat16', 'float16' or 'float32'"),
    (ENGINE % "max_rank: 7", "c.yaml:4: groups.0.engine.max_rank: 7 is not allowed: should be 'auto', 1, 8, 16"),
    (ENGINE % "kv_cache_gib: .inf", "c.yaml:4: groups.0.engine.kv_cache_gib: inf is not allowed: should be a finite number"),
    (ENGINE % "kv_cache_gib: .nan", "c.yaml:4: groups.0.engine.kv_cache_gib: nan is not allowed"),
    (ENGINE % "vllm_args: {x: 2020-01-01}", "c.yaml:4: groups.0.engine.vllm_args.x: datetime.date(2020, 1, 1) is not allowed: input was not a valid JSON value"),
    ("server: {port: 70000}\n" + GROUP, "c.yaml:1: server.port: 70000 is not allowed: should be less than or equal to 65535"),
    ("server:\n" + GROUP, "c.yaml:1: server: an empty value is not allowed: should be a mapping"),
    ("groups:\n", "c.yaml:1: groups: an empty value is not allowed: should be a list"),
    ("groups: []\n", "c.yaml:1: groups: [] is not allowed: should have at least one item"),
    ("groups: {g: 1}\n", "c.yaml:1: groups: {'g': 1} is not allowed: should be a list"),
    (GROUP + "    kind: mixed\n", "c.yaml:4: groups.0.kind: 'mixed' is not allowed: should be stacked"),
    ("groups: [{name: G, base: {path: b}}]", "c.yaml:1: groups.0.name: 'G' is not allowed: should match pattern"),
    ("groups: [{name: g, base: {path: ''}}]", "c.yaml:1: groups.0.base.path: '' is not allowed: should have at least 1 character"),
    # names
    (MEMBERS % f"{{key: {'k' * 33}, path: x}}", f"c.yaml:4: groups.0.members.0.key: '{'k' * 33}' is not allowed: should match pattern '^[A-Za-z0-9]"),
    (MEMBERS % "{key: .a, path: x}", "c.yaml:4: groups.0.members.0.key: '.a' is not allowed: should match"),
    (MEMBERS % "{key: a b, path: x}", "c.yaml:4: groups.0.members.0.key: 'a b' is not allowed: should match"),
    (MEMBERS % "{key: é, path: x}", "c.yaml:4: groups.0.members.0.key: 'é' is not allowed: should match"),
    (MEMBERS % '{key: "a\\n", path: x}', "c.yaml:4: groups.0.members.0.key: 'a\\n' is not allowed: should match"),
    (MEMBERS % "{key: '', path: x}", "c.yaml:4: groups.0.members.0.key: '' is not allowed: should match"),
    (MEMBERS % "{key: 5, path: x}", "c.yaml:4: groups.0.members.0.key: 5 is not allowed: should be a valid string"),
    (MEMBERS % "{key: no, path: x}", "c.yaml:4: groups.0.members.0.key: False is not allowed: should be a valid string"),
    (MEMBERS % "{key: a, path: x},\n      {key: a, path: y}", "c.yaml:5: groups.0.members.1.key: 'a' is not allowed: groups.0.members.0 has that name"),
    (MEMBERS % "{key: base, path: x}", "c.yaml:4: groups.0.members.0.key: 'base' is not allowed: groups.0.base has that name"),
    (MEMBERS % "{key: a, path: x, model_id: base}", "c.yaml:4: groups.0.members.0.model_id: 'base' is not allowed: groups.0.base has that name"),
    # adapters on the device
    (ENGINE % "adapter_slots: 2, adapters_per_batch: 3", "c.yaml:4: groups.0.engine: {'adapter_slots': 2, 'adapters_per_batch': 3} is not allowed: adapters_per_batch is 3, more than the 2 adapter_slots"),
    (ENGINE % "vllm_args: {scheduler-cls: x}", "c.yaml:4: groups.0.engine.vllm_args: {'scheduler-cls': 'x'} is not allowed: scheduler-cls is set by stackserve; leave it out"),
    (MEMBERS % "{key: a, path: x, share: 0}", "c.yaml:4: groups.0.members.0.share: 0 is not allowed"),
    # composites
    (MEMBERS % "{key: a}", "c.yaml:4: groups.0.members.0: {'key': 'a'} is not allowed: give either `path`, the folder of an adapter, or `adapters`"),
    (MEMBERS % "{key: a, path: x},\n      {key: c, path: x, adapters: {a: 1}}", "c.yaml:5: groups.0.members.1: {'key': 'c', 'path': 'x', 'adapters': {'a': 1}} is not allowed: give either"),
    (COMPOSITE % "", "c.yaml:4: groups.0.members.2.adapters: {} is not allowed: should have at least one item"),
    (COMPOSITE % "a: 1, b: 1", "c.yaml:4: groups.0.members.2.adapters.b: 'b' is not allowed: it is a composite itself; name its parts"),
    (COMPOSITE % "a: 1, c: 1", "c.yaml:4: groups.0.members.2.adapters.c: 'c' is not allowed: it is a composite itself; name its parts"),
    (COMPOSITE % "a: 1, base: 1", "c.yaml:4: groups.0.members.2.adapters.base: 'base' is not allowed: no adapter of this group has that key"),
    (COMPOSITE % "a: 1, nobody: 1", "c.yaml:4: groups.0.members.2.adapters.nobody: 'nobody' is not allowed: no adapter of this group has that key"),
    (COMPOSITE % "a: 1, é: 1", "c.yaml:4: groups.0.members.2.adapters.é.[key]: 'é' is not allowed: should match"),
    (COMPOSITE % "a: 0", "c.yaml:4: groups.0.members.2.adapters.a: 0 is not allowed: should be 0.001 to 100, or -100 to -0.001"),
    (COMPOSITE % "a: -0.0009", "c.yaml:4: groups.0.members.2.adapters.a: -0.0009 is not allowed: should be 0.001 to 100, or"),
    (COMPOSITE % "a: 101", "c.yaml:4: groups.0.members.2.adapters.a: 101 is not allowed: should be 0.001 to 100, or"),
    (COMPOSITE % "a: .nan", "c.yaml:4: groups.0.members.2.adapters.a: nan is not allowed: should be a finite number"),
    (COMPOSITE % "a: -.inf", "c.yaml:4: groups.0.members.2.adapters.a: -inf is not allowed: should be a finite number"),
    (COMPOSITE % "a: '1'", "c.yaml:4: groups.0.members.2.adapters.a: '1' is not allowed: should be a valid number"),
    (COMPOSITE % "a: true", "c.yaml:4: groups.0.members.2.adapters.a: True is not allowed: should be a valid number"),
    (COMPOSITE % "a: 1, a: 2", "c.yaml:4: a: this key is written twice; keep one"),
    (GROUP + "  - name: h\n    base: {path: c}\n", "c.yaml:5: groups.1.base.key: 'base' is not allowed: groups.0.base has that name"),
    (GROUP + "  - name: g\n    base: {path: c, key: c}\n", "c.yaml:4: groups.1.name: 'g' is not allowed: groups.0 has that name"),
    # aliases
    (ALIAS % "key: x, members: {}", "c.yaml:5: groups.0.aliases.0.members: {} is not allowed: should have at least one item"),
    (ALIAS % f"key: x, members: {{{', '.join(f'k{n}: 1' for n in range(33))}}}", "c.yaml:5: groups.0.aliases.0.members: "),
    (ALIAS % "key: x, members: {a: 0}", "c.yaml:5: groups.0.aliases.0.members.a: 0 is not allowed: should be greater than 0"),
    (ALIAS % "key: x, members: {a: -1}", "c.yaml:5: groups.0.aliases.0.members.a: -1 is not allowed: should be greater than 0"),
    (ALIAS % "key: x, members: {a: .inf}", "c.yaml:5: groups.0.aliases.0.members.a: inf is not allowed"),
    (ALIAS % "key: x, members: {b: 1}", "c.yaml:5: groups.0.aliases.0.members.b: 'b' is not allowed: the group has no such member, nor its base"),
    (ALIAS % "key: x, members: {x: 1}", "c.yaml:5: groups.0.aliases.0.members.x: 'x' is not allowed: the group has no such member"),
    (ALIAS % "key: x, members: {a: 1}, shadow: b", "c.yaml:5: groups.0.aliases.0.shadow: 'b' is not allowed: the group has no such member"),
    (ALIAS % "key: a, members: {a: 1}", "c.yaml:5: groups.0.aliases.0.key: 'a' is not allowed: groups.0.members.0 has that name"),
    (ALIAS % "key: base, members: {a: 1}", "c.yaml:5: groups.0.aliases.0.key: 'base' is not allowed: groups.0.base has that name"),
    (ALIAS % "key: x, members: {a: 1}}, {key: x, members: {a: 1}", "c.yaml:5: groups.0.aliases.1.key: 'x' is not allowed: groups.0.aliases.0 has that name"),
    (MEMBERS % "{key: a, path: x, model_id: m},\n      {key: b, path: y, model_id: g/a}", "c.yaml:5: groups.0.members.1.model_id: 'g/a' is not allowed: groups.0.members.0 has that name"),
    # YAML
    ("", "c.yaml: expected a mapping with the key `groups`"),
    ("# nothing\n", "c.yaml: expected a mapping with the key `groups`"),
    ("- 1\n", "c.yaml: expected a mapping with the key `groups`"),
    ("5", "c.yaml: expected a mapping with the key `groups`"),
    ("groups:\n\t- name: g\n", "c.yaml:2: found character '\\t' that cannot start any token"),
    ("groups: {\n", "c.yaml:2: "),
    (ZOO + "    members: [{key: a}]\n", "c.yaml:4: groups.0.members.0: {'key': 'a'} is not allowed: give either `path`"),
    (ZOO + "    members: []\n", "c.yaml:4: groups.0.members: [] is not allowed: should have at least one item"),
    (ZOO + "    members: [{key: a, path: a}, {key: a, path: b}]\n", "c.yaml:4: groups.0.members.1.key: 'a' is not allowed: groups.0.members.0 has that name"),
    (ZOO + "    members: [{key: a, path: a, runtime: onnx}, {key: b, path: b, runtime: torch}]\n", "c.yaml:2: groups.0:"),
    (ZOO + "    memori_mib: 4\n    members: [{key: a, path: a}]\n", "c.yaml:4: groups.0.memori_mib: unknown key; did you mean memory_mib? allowed: "),
    (ZOO + "    members: [{key: a, path: a, batching: {max_row: 1}}]\n", "c.yaml:4: groups.0.members.0.batching.max_row: unknown key; did you mean max_rows?"),
    (ZOO + "    workers: {onnx: {lanes: 0}}\n    members: [{key: a, path: a}]\n", "c.yaml:4: groups.0.workers.onnx.lanes: 0 is not allowed"),
    (GROUP + "---\n" + GROUP, "c.yaml:4: but found another document"),
    ("a: !!python/object/apply:os.system [ls]\n", "c.yaml:1: could not determine a constructor for the tag"),
    ("a: " + "[" * 5000 + "]" * 5000, "c.yaml: nested too deeply"),
    (BOMB, "c.yaml:2: aliases (*name) are not supported; write the value out"),
    ("a: &a [*a]\n", "c.yaml:1: aliases (*name) are not supported"),
    (b"\xff\xfe\x00\x01", "c.yaml: cannot be read as UTF-8 text"),
    ("key: 2024-13-01\n", "c.yaml: a value cannot be read: month must be in 1..12; quote it"),
    ("key: !!bool x\n", "c.yaml: a value cannot be read"),
    (b"\x7fELF\x00\x00", "c.yaml: unacceptable character"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_names_a_mistake_by_its_place_and_says_what_is_allowed(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    assert any(line.startswith(message) for line in mistakes(tmp_path, text))


def test_a_mistake_has_one_line_and_every_mistake_is_told(tmp_path: Path) -> None:
    text = "server: {port: x, hots: h}\n" + GROUP + "    engine: {seed: -1}\n"
    assert [line.partition(" ")[2].partition(":")[0] for line in mistakes(tmp_path, text)] == [
        "server.port",
        "server.hots",
        "groups.0.engine.seed",
    ]


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, ENGINE % f"dtype: {'x' * 1000}")
    assert len(line) < 300


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; give the path of a YAML file"):
        load_settings(tmp_path / "c.yaml")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path)


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configfile, "MAX_FILE_BYTES", 10)
    assert mistakes(tmp_path, GROUP) == ["c.yaml: larger than 10 bytes; split it up"]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("groups.0.engine.dtype=float32", lambda s: s.groups[0].engine.dtype == "float32"),
        ("groups.0.engine.max_num_seqs=3", lambda s: s.groups[0].engine.max_num_seqs == 3),
        ("groups.0.base.key=root", lambda s: s.groups[0].base.key == "root"),
        ("server.port=9000", lambda s: s.server.port == 9000),
        ('server.host="::"', lambda s: s.server.host == "::"),
        (
            "groups.0.engine.vllm_args.a={b: [1]}",
            lambda s: s.groups[0].engine.vllm_args == {"a": {"b": [1]}},
        ),
        (
            "groups.0.members=[{key: a, path: x}]",
            lambda s: [m.key for m in s.groups[0].members] == ["a"],
        ),
    ],
)
def test_an_override_wins_over_the_file(tmp_path: Path, override: str, value: Any) -> None:
    assert value(load(tmp_path, GROUP, override))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("server.port", "--set server.port: write it as key=value, for instance server.port=9000"),
        ("=3", "--set =3: write it as key=value"),
        ("server..port=3", "--set server..port=3: write it as key=value"),
        ("server.port=[", "--set server.port=[: the value is not valid YAML"),
        ("server.port=2024-13-01", "--set server.port=2024-13-01: the value is not valid YAML"),
        ("groups.5.name=x", "--set groups.5.name=x: there is no groups.5.name in the file"),
        ("groups.x.name=y", "--set groups.x.name=y: there is no groups.x.name in the file"),
        ("groups.0.name.x=y", "--set groups.0.name.x=y: there is no groups.0.name.x in the file"),
        ("server.port=x", "c.yaml:1: server.port: 'x' is not allowed: should be a valid integer"),
        ("server.prot=1", "c.yaml:1: server.prot: unknown key; did you mean port?"),
        ("groups=5", "c.yaml:1: groups: 5 is not allowed: should be a list"),
    ],
)
def test_a_bad_override_is_named_as_it_was_written(
    tmp_path: Path, override: str, message: str
) -> None:
    (line,) = mistakes(tmp_path, GROUP, override)
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("a", "/etc/stackserve/a"),
        ("../a", "/etc/a"),
        ("./a/", "/etc/stackserve/a"),
        ("/models/a", "/models/a"),
        ("~/a", "/home/me/a"),
    ],
)
def test_a_path_is_relative_to_the_file(
    monkeypatch: pytest.MonkeyPatch, written: str, means: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert resolve_path(written, Path("/etc/stackserve/c.yaml")) == Path(means)


@pytest.mark.parametrize("written", ["~nobody-of-that-name/a", "a\0b"])
def test_a_path_that_means_nothing_is_refused_by_name(written: str) -> None:
    with pytest.raises(ArtifactRejected) as refused:
        resolve_path(written, Path("/etc/stackserve/c.yaml"))
    assert refused.value.code == "folder_missing"
    assert repr(written) in refused.value.message


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(ArtifactRejected):
        resolve_path("a", tmp_path / "c.yaml")
