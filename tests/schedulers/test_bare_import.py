"""Saved pipelines that name our classes load in a process that has only run `import diffusers_twinflow`."""

import json
import subprocess
import sys

import pytest
from diffusers import StableDiffusion3Pipeline

from diffusers_twinflow import TwinFlowScheduler, enable_twinflow

SCHEDULER = ["diffusers_twinflow.schedulers.scheduling_twinflow", "TwinFlowScheduler"]
TRANSFORMER = ["diffusers_twinflow.models.transformers", "TwinFlowSD3Transformer2DModel"]
LOAD = "pipe = DiffusionPipeline.from_pretrained(sys.argv[1], text_encoder_3=None, tokenizer_3=None)"
REPORT = (
    "print(type(pipe.scheduler).__name__, pipe.scheduler.config.gap_end, type(pipe.transformer).__name__, end=' ')"
)


@pytest.mark.long
@pytest.mark.parametrize(
    "order", ["diffusers_twinflow first", pytest.param("diffusers first", marks=pytest.mark.slow)]
)
def test_in_a_fresh_process(tmp_path, base_dir, order):
    pipe = StableDiffusion3Pipeline.from_pretrained(base_dir, text_encoder_3=None, tokenizer_3=None)
    enable_twinflow(pipe.transformer)
    pipe = StableDiffusion3Pipeline(
        **{**pipe.components, "scheduler": TwinFlowScheduler.from_config(pipe.scheduler.config, gap_end=0.7)}
    )
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == SCHEDULER and index["transformer"] == TRANSFORMER

    imports = ["import diffusers_twinflow", "from diffusers import DiffusionPipeline"]
    if order == "diffusers first":
        imports.reverse()
    program = "\n".join(["import sys", *imports, LOAD, REPORT, "print(pipe.transformer.twinflow_enabled)"])
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "TwinFlowScheduler 0.7 TwinFlowSD3Transformer2DModel True\n"
