"""What the runs of tests import. The processes that tests fork from import it once, so that no run does.

The package imports torch, diffusers and its own parts late, so importing the training script is not enough: each forked
run would import for seconds.
"""

import gc

import datasets.packaged_modules.imagefolder.imagefolder  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import peft  # noqa: F401
import torch
import torch.utils.tensorboard
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline  # noqa: F401
from transformers import CLIPTextModelWithProjection, CLIPTokenizer  # noqa: F401

import diffusers_twinflow.cli.train
import diffusers_twinflow.families.stable_diffusion_3
import diffusers_twinflow.pipelines.pipeline_twinflow
import diffusers_twinflow.training.trainer  # noqa: F401

torch.set_num_threads(1)
gc.freeze()  # a forked process does not look through what was imported
