"""Saved pipelines that name our classes load in a process that has only run `import diffusers_twinflow`."""

import json
import subprocess
import sys

import pytest
from diffusers import StableDiffusion3Pipeline

from diffusers_twinflow import TwinFlowScheduler, enable_twinflow
from tests.forking import FORGET_THE_PACKAGE

SCHEDULER = ["diffusers_twinflow.schedulers.scheduling_twinflow", "TwinFlowScheduler"]
TRANSFORMER = ["diffusers_twinflow.models.transformers", "TwinFlowSD3Transformer2DModel"]
IMPORTS = ["import diffusers_twinflow", "from diffusers import DiffusionPipeline"]
LOAD = [
    "import sys",
    "pipe = DiffusionPipeline.from_pretrained(sys.argv[1], text_encoder_3=None, tokenizer_3=None)",
    "scheduler, transformer = pipe.scheduler, pipe.transformer",
    "print(type(scheduler).__name__, scheduler.config.gap_end, type(transformer).__name__, transformer.twinflow_enabled)",
]
EXPECTED = "TwinFlowScheduler 0.7 TwinFlowSD3Transformer2DModel True"


@pytest.fixture
def saved(tmp_path, base_dir):
    """A saved pipeline with our scheduler and transformer."""
    pipe = StableDiffusion3Pipeline.from_pretrained(base_dir, text_encoder_3=None, tokenizer_3=None)
    enable_twinflow(pipe.transformer)
    pipe = StableDiffusion3Pipeline(
        **{**pipe.components, "scheduler": TwinFlowScheduler.from_config(pipe.scheduler.config, gap_end=0.7)}
    )
    pipe.save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["scheduler"] == SCHEDULER and index["transformer"] == TRANSFORMER
    return tmp_path / "saved"


def test_in_a_process_that_has_none_of_our_modules(start, saved):
    """Forked, so that diffusers is imported already. The slow test imports it anew, in both orders."""
    printed = start([saved], code="\n".join([FORGET_THE_PACKAGE, *IMPORTS, *LOAD])).check()
    assert EXPECTED in printed.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("imports", [IMPORTS, IMPORTS[::-1]], ids=["diffusers_twinflow first", "diffusers first"])
def test_in_a_fresh_process(saved, imports):
    command = [sys.executable, "-c", "\n".join([*imports, *LOAD]), str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{EXPECTED}\n"
