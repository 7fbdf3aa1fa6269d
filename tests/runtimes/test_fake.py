from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stackserve.runtimes.base import BadInput, Model, ModelFiles, ModelRefused
from stackserve.runtimes.fake import FakeRuntime

ONES = np.ones((2, 3), np.float32)


def files(folder: Path, **behaviour: Any) -> ModelFiles:
    (folder / "fake.json").write_text(json.dumps(behaviour))
    return ModelFiles(folder)


def load(folder: Path, **behaviour: Any) -> Model:
    return FakeRuntime().load(files(folder, **behaviour))


def test_it_multiplies(tmp_path: Path) -> None:
    output = load(tmp_path, factor=3).infer({"x": ONES}, ["y"])
    np.testing.assert_array_equal(output["y"], ONES * 3)
    assert output["y"].dtype == np.float32


def test_it_gives_another_number_of_rows_when_told_to(tmp_path: Path) -> None:
    assert load(tmp_path, rows_out=5).infer({"x": ONES}, ["y"])["y"].shape == (5, 3)


def test_it_fails_on_the_values_that_it_is_told(tmp_path: Path) -> None:
    model = load(tmp_path, fail_on=1, reject_on=7)
    with pytest.raises(RuntimeError):
        model.infer({"x": ONES}, ["y"])
    with pytest.raises(BadInput):
        model.infer({"x": ONES * 7}, ["y"])
    assert model.infer({"x": ONES * 2}, ["y"]).keys() == {"y"}


def test_its_estimate_is_the_memory_that_it_holds_unless_it_lies(tmp_path: Path) -> None:
    assert FakeRuntime().estimate(files(tmp_path, bytes=1 << 20)) > 1 << 20
    assert FakeRuntime().estimate(files(tmp_path, bytes=1 << 20, estimate=9)) == 9


@pytest.mark.parametrize("behaviour", [{"crash_at_load": True}, {"crash_on": 1}])
def test_it_kills_its_own_process(tmp_path: Path, behaviour: dict[str, Any]) -> None:
    files(tmp_path, **behaviour)
    code = (
        "import sys, numpy; from pathlib import Path\n"
        "from stackserve.runtimes.base import ModelFiles\n"
        "from stackserve.runtimes.fake import FakeRuntime\n"
        "model = FakeRuntime().load(ModelFiles(Path(sys.argv[1])))\n"
        "model.infer({'x': numpy.ones((1, 1), 'f4')}, ['y'])"
    )
    run = subprocess.run((sys.executable, "-c", code, str(tmp_path)), check=False)
    assert run.returncode == -signal.SIGKILL


def test_it_refuses_with_the_code_that_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused) as refused:
        load(tmp_path, refuse="untrusted_type")
    assert refused.value.code == "untrusted_type"


def test_a_field_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused) as refused:
        load(tmp_path, sleep=1)
    assert refused.value.code == "invalid_model"
