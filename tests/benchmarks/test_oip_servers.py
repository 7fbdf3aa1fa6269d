"""What each server is started with, and what is said of one that is not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.oip import targets_of
from benchmarks.oip_options import parse
from benchmarks.oip_peers import (
    DONE,
    MLSERVER,
    PEERS,
    TRITON,
    prepare_mlserver,
    prepare_triton,
    targets,
)
from benchmarks.oip_report import Record
from benchmarks.oip_servers import Launch, ServedModel, ServerFailed, Target, running_server
from benchmarks.oip_targets import our_config

MODELS = (ServedModel("plain", Path("/m"), 3), ServedModel("batched", Path("/m"), 3, True))
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path in {"/ready", "/v2/models/plain/ready"} else 404)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


def set_up(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name.lower()).mkdir()
        (folder / name.lower() / DONE).touch()


def test_a_peer_that_is_not_set_up_is_left_out_and_named(tmp_path: Path) -> None:
    set_up(tmp_path, "MLServer")
    record = Record()
    measured = targets_of(parse(["--peers", str(tmp_path)]), record)
    assert [each.name for each in measured] == ["stackserve", "MLServer"]
    assert record.failures.keys() == {"Triton"}
    assert "--set-up" in record.failures["Triton"]


def test_only_the_servers_that_were_asked_for_are_measured(tmp_path: Path) -> None:
    record = Record()
    measured = targets_of(parse(["--peers", str(tmp_path), "--targets", "stackserve"]), record)
    assert [each.name for each in measured] == ["stackserve"]
    assert not record.failures


def test_only_triton_takes_binary_tensors(tmp_path: Path) -> None:
    assert targets(tmp_path) == ()
    set_up(tmp_path, *(each.name for each in PEERS))
    encodings = {each.name: len(each.encodings) for each in targets(tmp_path)}
    assert encodings == {MLSERVER.name: 1, TRITON.name: 2}


def test_mlserver_batches_the_one_model_and_not_the_other(tmp_path: Path) -> None:
    launch = prepare_mlserver(tmp_path, MODELS, tmp_path)
    settings = {
        each.name: json.loads((tmp_path / each.name / "model-settings.json").read_text())
        for each in MODELS
    }
    assert settings["plain"]["parameters"] == {"uri": "/m/model.onnx"}
    assert "max_batch_size" not in settings["plain"]
    assert settings["batched"]["max_batch_size"] > 1
    assert json.loads((tmp_path / "settings.json").read_text())["http_port"] == launch.port
    assert (tmp_path / "oip_mlserver_model.py").is_file()


def test_triton_batches_the_one_model_and_not_the_other(tmp_path: Path) -> None:
    launch = prepare_triton(tmp_path, MODELS, tmp_path)
    plain, batched = (
        (tmp_path / "models" / each.name / "config.pbtxt").read_text() for each in MODELS
    )
    assert "max_batch_size: 0" in plain
    assert "dims: [-1, 4]" in plain
    assert "dynamic_batching" not in plain
    assert "dynamic_batching" in batched
    assert "dims: [4]" in batched
    assert f"--http-port={launch.port}" in launch.command
    assert (tmp_path / "models" / "plain" / "1" / "model.py").is_file()


def test_ours_batches_the_one_model_and_not_the_other() -> None:
    (group,) = our_config(256, MODELS)["groups"]
    assert group["memory_mib"] == 256
    assert [each["batching"]["max_rows"] for each in group["members"]] == [1, 128]
    assert [each["path"] for each in group["members"]] == ["/m", "/m"]


def target(code: str, evicts: bool = False) -> Target:
    command = (sys.executable, "-c", code)
    return Target("it", (), lambda *_: Launch(command, None, "/ready"), evicts)


def test_a_server_is_ready_when_it_and_its_models_are(tmp_path: Path) -> None:
    with running_server(target(SERVER), MODELS[:1], tmp_path / "files", tmp_path / "log") as server:
        assert server.port > 0
        assert Path(f"/proc/{server.process}").exists()
    assert not Path(f"/proc/{server.process}").exists()


def test_a_server_that_ends_says_its_last_line(tmp_path: Path) -> None:
    dies = target("import sys; print('no such model'); sys.exit(3)")
    with (
        pytest.raises(ServerFailed, match="it ended with code 3: no such model"),
        running_server(dies, MODELS, tmp_path / "files", tmp_path / "log"),
    ):
        pass


@pytest.mark.parametrize(
    ("flags", "named"),
    [(["--parts", "large"], "large"), (["--rounds", "0"], "'0'"), (["--targets", "x"], "x")],
)
def test_a_bad_flag_is_named(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(flags)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err
