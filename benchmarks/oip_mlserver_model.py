"""The model class that MLServer loads in its own environment: onnxruntime behind its MLModel."""

from __future__ import annotations

from typing import Any

import onnxruntime
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]


class OnnxModel(MLModel):  # type: ignore[misc]
    """Runs the session in the event loop: a small model is done before a thread would have begun."""

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        uri = self.settings.parameters.uri
        self._session: Any = onnxruntime.InferenceSession(
            uri, options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [each.name for each in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        outputs = self._session.run(self._outputs, inputs)
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output(name, values)
                for name, values in zip(self._outputs, outputs, strict=True)
            ],
        )
