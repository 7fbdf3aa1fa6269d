"""The model.py of Triton's Python backend: onnxruntime on all requests of an execution at once.

`MODEL` in its model's parameters is the file.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

sys.path.insert(0, os.environ["TRITON_MODEL_PACKAGES"])  # before all that needs numpy

import numpy
import onnxruntime
import triton_python_backend_utils as triton  # type: ignore[import-not-found]


class TritonPythonModel:
    """The name that the backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(
            parameters["MODEL"]["string_value"], options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        inputs = [
            triton.get_input_tensor_by_name(request, "input").as_numpy() for request in requests
        ]
        together = inputs[0] if len(inputs) == 1 else numpy.concatenate(inputs)
        (output,) = self._session.run(["output"], {"input": together})
        responses, at = [], 0
        for each in inputs:
            mine = triton.Tensor("output", output[at : at + len(each)])
            responses.append(triton.InferenceResponse([mine]))
            at += len(each)
        return responses
