"""The servers that ours is measured beside: MLServer and Triton, each in an environment of its own.

Both run the onnxruntime that ours runs, through the hook for Python code that they have: MLServer ships
no ONNX runtime, and the only Triton on PyPI has no backend but Python's. Where a setting is given here,
it made them faster than the one they come with.

Of their licences: MLServer 1.7.1 and the wheel nvidia-pytriton are under Apache 2.0, Triton under
BSD-3; none of the three says anything on publishing measurements.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from benchmarks.oip_models import INPUT, OUTPUT, WIDTH, Encoding
from benchmarks.oip_servers import BATCH_ROWS, Launch, ServedModel, Target, free_port

HERE = Path(__file__).parent
DEFAULT_FOLDER = Path("~/.cache/stackserve/peers").expanduser()
DONE = "complete"
"""Written into an environment when everything is installed in it."""
STUB_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

MLSERVER_WORKERS = 0
"""Without worker processes: a second one halves its speed where the model is small."""
MLSERVER_BATCH_REQUESTS = 16
"""It counts requests, not rows, and waits for this many."""
MLSERVER_BATCH_SECONDS = 0.001
PACKAGES_VARIABLE = "TRITON_MODEL_PACKAGES"
"""Where its models, which run in no Python of the environment, find onnxruntime."""
TRITON_INSTANCES = 1
TRITON_DELAY_MICROSECONDS = 0
"""What is queued is computed together; to wait for more costs time where all callers wait, too."""


class PeerFailed(Exception):
    """An environment could not be made; the message is pip's last line."""


@dataclass(frozen=True)
class Peer:
    name: str
    packages: tuple[str, ...]

    def environment(self, folder: Path) -> Path:
        return folder / self.name.lower()

    def is_set_up(self, folder: Path) -> bool:
        return (self.environment(folder) / DONE).is_file()


MLSERVER = Peer("MLServer", ("mlserver==1.7.1", "uvloop<0.22"))
TRITON = Peer("Triton", ("nvidia-pytriton==0.7.0",))
PEERS = (MLSERVER, TRITON)


def set_up(folder: Path) -> Iterator[str]:
    """Make the environments that are missing; yields what is done next. Raises PeerFailed."""
    for peer in PEERS:
        where = peer.environment(folder)
        if peer.is_set_up(folder):
            yield f"{peer.name} is in {where}"
            continue
        yield f"{peer.name}: a virtual environment in {where}"
        shutil.rmtree(where, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(where))
        packages = (*peer.packages, f"onnxruntime=={version('onnxruntime')}")
        yield f"{peer.name}: pip install {' '.join(packages)}"
        _run(str(where / "bin" / "pip"), "install", "--quiet", *packages)
        if peer is TRITON:
            _gather_backend(where)
        (where / DONE).touch()


def targets(folder: Path) -> tuple[Target, ...]:
    """The peers that are set up."""
    made = {
        MLSERVER: Target(MLSERVER.name, (Encoding.JSON,), partial(prepare_mlserver, folder)),
        TRITON: Target(
            TRITON.name, tuple(Encoding), partial(prepare_triton, folder), has_statistics=True
        ),
    }
    return tuple(target for peer, target in made.items() if peer.is_set_up(folder))


def prepare_mlserver(peers: Path, models: Sequence[ServedModel], folder: Path) -> Launch:
    port = free_port()
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_endpoint": None,
        "parallel_workers": MLSERVER_WORKERS,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    for each in models:
        model: dict[str, object] = {
            "name": each.name,
            "implementation": "oip_mlserver_model.OnnxModel",
            "parameters": {"uri": str(each.file)},
        }
        if each.batched:
            model |= {
                "max_batch_size": MLSERVER_BATCH_REQUESTS,
                "max_batch_time": MLSERVER_BATCH_SECONDS,
            }
        (folder / each.name).mkdir()
        (folder / each.name / "model-settings.json").write_text(json.dumps(model))
    shutil.copy(HERE / "oip_mlserver_model.py", folder)
    program = MLSERVER.environment(peers) / "bin" / "mlserver"
    environment = {"PYTHONPATH": str(folder)}
    return Launch((str(program), "start", str(folder)), port, "/v2/health/ready", environment)


def prepare_triton(peers: Path, models: Sequence[ServedModel], folder: Path) -> Launch:
    environment = TRITON.environment(peers)
    packages = _site_packages(environment)
    for each in models:
        version_folder = folder / "models" / each.name / "1"
        version_folder.mkdir(parents=True)
        shutil.copy(HERE / "oip_triton_model.py", version_folder / "model.py")
        (version_folder.parent / "config.pbtxt").write_text(triton_config(each))
    port = free_port()
    command = (
        str(packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={environment / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
    )
    paths = {
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        PACKAGES_VARIABLE: str(packages),
    }
    return Launch(command, port, "/v2/health/ready", paths)


def triton_config(model: ServedModel) -> str:
    """A model's config.pbtxt. With batches the first dimension is not written."""
    rows = () if model.batched else (-1,)
    batches = f"dynamic_batching {{ max_queue_delay_microseconds: {TRITON_DELAY_MICROSECONDS} }}"
    lines = [
        f'name: "{model.name}"',
        'backend: "python"',
        f"max_batch_size: {BATCH_ROWS if model.batched else 0}",
        _tensor("input", INPUT, (*rows, WIDTH)),
        _tensor("output", OUTPUT, (*rows, model.outputs)),
        f'parameters {{ key: "MODEL" value: {{ string_value: "{model.file}" }} }}',
        f"instance_group [{{ count: {TRITON_INSTANCES}, kind: KIND_CPU }}]",
        *([batches] if model.batched else []),
    ]
    return "\n".join([*lines, ""])


def _tensor(which: str, name: str, shape: tuple[int, ...]) -> str:
    return f'{which} [{{ name: "{name}", data_type: TYPE_FP32, dims: {list(shape)} }}]'


def _gather_backend(environment: Path) -> None:
    """One folder with the Python backend and the stub for this Python, as Triton looks for them."""
    server = _site_packages(environment) / "pytriton" / "tritonserver"
    backend = environment / "backends" / "python"
    shutil.copytree(server / "backends" / "python", backend)
    stub = server / "python_backend_stubs" / STUB_PYTHON / "triton_python_backend_stub"
    shutil.copy(stub, backend)


def _site_packages(environment: Path) -> Path:
    return environment / "lib" / f"python{STUB_PYTHON}" / "site-packages"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise PeerFailed(f"{' '.join(command)}: {(errors or lines or ['it failed'])[-1]}")
