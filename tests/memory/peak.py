"""A process of its own for the tests: it trains one run and writes its peak of resident memory beyond its imports.

Usage: peak.py SPEC.json FOLDER (under torchrun for several processes; FOLDER/peak.RANK has the process's bytes).
"""

import importlib
import os
import sys
from pathlib import Path

from tensloradist import backbones, tasks
from tensloradist.spec import RunSpec
from tensloradist.training import train
from tensloradist.training.provenance import peak_memory, reset_peak_memory

spec = RunSpec.model_validate_json(Path(sys.argv[1]).read_text())
folder = Path(sys.argv[2]) / "0001"
folder.mkdir(parents=True, exist_ok=True)
task = tasks.load(spec.task, spec.backbone, spec.protocol)
backbones.empty(spec.backbone, task.num_labels)  # what the libraries import on request, they import here
if spec.backbone.quantization is not None:
    importlib.import_module("bitsandbytes")
if spec.compute.zero_stage:
    os.environ["DS_ACCELERATOR"] = "cpu"
    importlib.import_module("deepspeed")
importlib.import_module("torch._dynamo")
reset_peak_memory()
before, _ = peak_memory()  # just reset, so what is resident now
result = train(spec, folder, keep=False)
rank = os.environ.get("RANK", "0")
(Path(sys.argv[2]) / f"peak.{rank}").write_text(str(result.peak_memory.host_bytes - before))
