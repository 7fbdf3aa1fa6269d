"""`mixed_batch.py` on a GPU: `cuda_mixed_batch.py ours|checked OUT BASE ADAPTER...`.

`ours` puts a made-up yes in the place of the check, in this process: start it with
VLLM_ENABLE_V1_MULTIPROCESSING=0, so that the model is loaded here.
"""

from __future__ import annotations

import sys

from mixed_batch import main

from stackserve.engine import lora_choice
from stackserve_kernels.lora.selfcheck import Verdict

if __name__ == "__main__":
    if sys.argv[1] == "ours":
        lora_choice.choose_on_device = lambda *a, **k: Verdict(True, "a test asks", ())
    main(*sys.argv[2:])
