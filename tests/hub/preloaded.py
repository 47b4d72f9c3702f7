"""Imported by the process that the tests' processes are forked from: what their programs will need."""

import datasets  # noqa: F401
import torch
from diffusers import StableDiffusion3Pipeline  # noqa: F401

import diffusers_twinflow.cli  # noqa: F401

torch.set_num_threads(1)
