"""Tiny modular pipelines behind the interface of stock pipelines, with the families that are derived from them."""

from copy import deepcopy

import diffusers

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.families.modular_blocks import class_of
from diffusers_twinflow.families.second_denoiser import SECOND
from diffusers_twinflow.families.stock_calls import IN_SECTIONS
from tests.modular.building import ALONE, RISING, TWINS, twin
from tests.schedulers.captured_pipelines import PARTS, Captured


class CapturedBlocks(Captured):
    """A tiny modular pipeline, its derived family, and its calls for several samples.

    Args:
        name: name of its class, without what all names end with.
        keeps: blocks that are kept, although embeddings and latents make them unnecessary.
    """

    def __init__(self, name, keeps=()):
        if name in TWINS:
            modular, inputs, stock, _ = twin(name, keeps)
            self.contract, scheduler = TWINS[name].contract, stock.scheduler
            if name == "Cosmos3Distilled":  # it passes sigmas, as its checkpoints' scheduler takes them
                scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        else:
            modular, inputs = ALONE[name]()
            rises = name == "MiniMaxMusic3"
            self.contract, scheduler = name, diffusers.FlowMatchEulerDiscreteScheduler(**RISING if rises else {})
        specs = getattr(diffusers, f"{name}ModularPipeline")(modular.blocks)
        pipe = class_of(specs).from_modular(modular)
        pipe.scheduler = scheduler
        if getattr(pipe, SECOND, None) is pipe.transformer:
            setattr(pipe, SECOND, deepcopy(pipe.transformer))
        pipe.set_progress_bar_config(disable=True)
        self.set_up(pipe, inputs)
        self.takes_one = name in ONE_PICTURE
        if "decode" in keeps:
            self.call["output_type"] = "np"

    def call_of(self, count):
        if count > 1 and self.takes_one:
            raise TwinFlowConfigError("one picture, and so one sample")
        return super().call_of(count)


ONE_PICTURE = ("WanImage2Video",)
CANNOT_BE_CAPTURED = {
    "Helios": IN_SECTIONS,
}
CANNOT_BE_DECODED = {"QwenImageLayered": PARTS}
TRAINED = [name for name in TWINS if name not in {**CANNOT_BE_CAPTURED, **CANNOT_BE_DECODED}]
"""Modular pipelines that are trained on images or videos in the tests."""
