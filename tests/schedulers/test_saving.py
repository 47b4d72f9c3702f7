"""A pipeline with the scheduler, saved and loaded again in a fresh process: from a directory and from the Hub."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from diffusers_twinflow.schedulers import TwinFlowScheduler

HUB_SERVER = Path(__file__).parents[1] / "hub" / "hub_server.py"
PROGRAM = """
import sys
from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub import create_repo, snapshot_download, upload_folder

from diffusers_twinflow import TwinFlowScheduler

def load(source):
    return DiffusionPipeline.from_pretrained(source, text_encoder_3=None, tokenizer_3=None)

def report(what, scheduler):
    config = scheduler.config
    print(what, type(scheduler).__name__, config.gap_end, config.sampling_style, config.shift)

report("directory:", load(sys.argv[1]).scheduler)
for repository, directory in (("me/ours", sys.argv[1]), ("me/stock", sys.argv[2])):
    create_repo(repository)
    upload_folder(repo_id=repository, folder_path=directory)
try:
    load("me/ours")
except ValueError as error:
    print("by id:", error)
report("snapshot:", load(snapshot_download("me/ours")).scheduler)
pipe = load("me/stock")
print("stock:", type(pipe.scheduler).__name__)
report("swapped:", TwinFlowScheduler.from_config(pipe.scheduler.config))
"""


@pytest.fixture
def hub(tmp_path):
    """The environment of processes that take a server on this machine for the Hub."""
    with subprocess.Popen([sys.executable, HUB_SERVER], stdin=-1, stdout=-1, text=True) as server:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        yield {
            **kept,
            "HF_ENDPOINT": f"http://127.0.0.1:{int(server.stdout.readline())}",
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": "hf_writer",
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
        server.stdin.close()


@pytest.mark.slow
def test_a_saved_pipeline_loads_in_a_fresh_process(tmp_path, base_dir, hub):
    pipe = StableDiffusion3Pipeline.from_pretrained(base_dir, text_encoder_3=None, tokenizer_3=None)
    pipe.scheduler = TwinFlowScheduler.from_config(pipe.scheduler.config, gap_end=0.7, shift=3.0, sampling_style="any")
    pipe.save_pretrained(tmp_path / "ours")
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path / "stock")

    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "ours"), str(tmp_path / "stock")]
    done = subprocess.run(command, env=hub, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    ours = "TwinFlowScheduler 0.7 any 3.0"
    assert lines["directory"] == lines["snapshot"] == lines["swapped"] == ours
    assert lines["stock"] == "FlowMatchEulerDiscreteScheduler"
    assert "scheduling_twinflow.py as defined in `model_index.json` does not exist" in lines["by id"]
