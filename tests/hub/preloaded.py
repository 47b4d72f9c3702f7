"""Imported by the process that the tests' processes are forked from: what their programs will need."""

import runpy
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline  # noqa: F401

import diffusers_twinflow.cli  # noqa: F401

runpy.run_path(str(Path(__file__).parents[2] / "examples" / "train_twinflow.py"), run_name="preloaded")
torch.set_num_threads(1)
