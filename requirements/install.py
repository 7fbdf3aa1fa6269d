"""Sets up the virtual environment of a clone: `python3.11 requirements/install.py [--runtimes] [--dev]`.

Uses only the standard library. Checks first whether this machine can run stackserve, installs the
exact locks, and does nothing when that is done already.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"
SOURCES = ROOT / "kernels" / "stackserve_kernels" / "lora" / "csrc"
KERNELS = SOURCES.with_name("_cpu.so")
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
CPUINFO = Path("/proc/cpuinfo")
NEEDED_GB = 4
DOWNLOADS = {
    "cpu.lock": "about 600 MB",
    "runtimes.lock": "about 120 MB",
    "dev.lock": "about 270 MB",
}
WANTED_PYTHON = (3, 11)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtimes", action="store_true", help="ONNX, scikit-learn and so on too")
    parser.add_argument("--dev", action="store_true", help="the tools for tests and lint too")
    asked = parser.parse_args()
    locks = ["cpu.lock"]
    locks += ["runtimes.lock"] if asked.runtimes or asked.dev else []
    locks += ["dev.lock"] if asked.dev else []
    missing = [name for name in locks if name not in installed()]
    if not missing:
        return
    check_machine()
    if not has_pip():
        make_environment()
    for name in missing:
        say(f"installing requirements/{name} ({DOWNLOADS[name]} to download)")
        install_lock(ROOT / "requirements" / name)
    pip("install", "--no-deps", "--no-build-isolation", "--quiet", "--editable", str(ROOT))
    if not KERNELS.exists():
        say("there is no C++ compiler, so torch will compute adapters, slowly; apt install g++")
    STAMP.write_text("".join(f"{stamp(name)}\n" for name in {*installed(), *missing}))
    say("installed")


def has_pip() -> bool:
    """False too for an environment whose making was interrupted."""
    if not PYTHON.exists():
        return False
    command = [str(PYTHON), "-m", "pip", "--version"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def make_environment() -> None:
    say("making .venv")
    try:
        venv.create(VENV, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(VENV, ignore_errors=True)
        fail(
            f"a virtual environment cannot be made ({error}); Debian and Ubuntu: apt install python3.11-venv"
        )


def installed() -> set[str]:
    """The locks that this environment holds as they are now."""
    if not STAMP.exists() or not PYTHON.exists():
        return set()
    held = set(STAMP.read_text().split("\n"))
    return {name for name in DOWNLOADS if stamp(name) in held}


def stamp(name: str) -> str:
    """Changes with the lock, the package's own metadata, its C++ and the place of the clone."""
    files = [ROOT / "requirements" / name, ROOT / "pyproject.toml", ROOT / "kernels/build_hook.py"]
    files += sorted(SOURCES.glob("*"))
    parts = (str(ROOT).encode(), *(file.read_bytes() for file in files))
    return f"{name} {hashlib.sha256(b''.join(parts)).hexdigest()}"


def check_machine() -> None:
    """Refuse, in one line, a machine that the locks are not made for."""
    if sys.version_info[:2] != WANTED_PYTHON:
        have = platform.python_version()
        fail(f"the locks are for Python 3.11 and this is {have}; make PYTHON=/path/to/python3.11")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        fail(f"the locks are for Linux on x86-64, not {platform.system()} on {platform.machine()}")
    if "avx2" not in CPUINFO.read_text().split():
        fail("this CPU has no AVX2, which vLLM needs")
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_GB:
        fail(f"{ROOT} has {free:.1f} GB free and {NEEDED_GB} GB are needed; free some, or move it")


def install_lock(lock: Path) -> None:
    """Install a lock exactly. torch+cpu is not on PyPI: where pip does not find it as it is
    configured, PyTorch's own index is asked for it.
    """
    torch = [line for line in lock.read_text().split() if line.startswith("torch==")]
    if torch and pip("install", "--no-deps", *torch, check=False) != 0:
        say(f"asking {TORCH_INDEX} for {torch[0]}")
        pip("install", "--no-deps", "--index-url", TORCH_INDEX, *torch)
    pip("install", "--no-deps", "--requirement", str(lock))


def pip(*arguments: str, check: bool = True) -> int:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments]
    code = subprocess.run(command, check=False).returncode
    if check and code != 0:
        fail(f"pip failed (exit code {code}); its own lines above say why. Run it again to go on")
    return code


def say(line: str) -> None:
    print(f"stackserve: {line}", file=sys.stderr, flush=True)


def fail(line: str) -> None:
    sys.exit(f"stackserve: {line}")


if __name__ == "__main__":
    main()
