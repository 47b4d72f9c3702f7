"""Tiny stock pipelines with the families that are derived from them."""

import inspect
from copy import deepcopy

import torch

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.families.call_capture import capture_call, encoding_means
from diffusers_twinflow.families.captured import CapturedFamily
from diffusers_twinflow.families.guiders import turn_guiders_off
from diffusers_twinflow.families.stock_calls import denoiser_of
from tests.families.kit import fill_zeros
from tests.schedulers.stock_pipelines import PIPELINES, VARIANTS
from tests.schedulers.stock_pipelines.batches import repeat

ENCODED_IMAGE = "condition that changes with the noise"
SEVERAL_TIMES = "has several times for one sample"
FURTHER_TIME = "is a time besides `timestep`"
NOISY = "changes with the noise, as the sample does"
KEPT = "only a part of `hidden_states`.* is noise"
CANNOT_BE_CAPTURED = {
    "HunyuanImageRefinerPipeline": ENCODED_IMAGE,
    "a frame kept out of step": SEVERAL_TIMES,
    "per_token_timesteps, prediction negated": SEVERAL_TIMES,
    "LTX2ImageToVideoPipeline": SEVERAL_TIMES,
    "LTX2InContextPipeline": SEVERAL_TIMES,
    "LTX2ConditionPipeline": SEVERAL_TIMES,
    "LTX2HDRPipeline": SEVERAL_TIMES,
    "SanaWMPipeline": SEVERAL_TIMES,
    "SanaImageToVideoPipeline": SEVERAL_TIMES,
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": SEVERAL_TIMES,
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": SEVERAL_TIMES,
    "LTX2DFRPipeline": FURTHER_TIME,
    "set_timesteps again for every section": "generates a video in sections",
    "Kandinsky5I2VPipeline": KEPT,
    "EasyAnimateInpaintPipeline": NOISY,
    "GlmImagePipeline": "`kv_caches`.*may keep state between calls",
    "ZImageOmniPipeline": "`x` is a list of 1",
    "DreamLitePipeline": "`sample` is a tensor of shape .2, .* for one prompt",  # with and without the prompt
    "OmniGenPipeline": "`hidden_states` is a tensor of shape .2, .* for one prompt",  # with and without the prompt
    "add_noise by value and no begin index": "`timestep` is 1 at noise level 1",  # its time is a part of the video's
    "predicts the clean picture, in pixels": "predicts the image and not a velocity",
    "AnyFlowFARPipeline": "generates a video in sections",
    "HeliosPipeline": "generates a video in sections",
}
CONTROLLED = (
    "controlnet",
    "FluxControlNetPipeline",
    "FluxControlNetImg2ImgPipeline",
    "FluxControlNetInpaintPipeline",
    "SanaControlNetPipeline",
    "ZImageControlNetPipeline",
    "ZImageControlNetInpaintPipeline",
    "QwenImageControlNetPipeline",
    "QwenImageControlNetInpaintPipeline",
    "StableDiffusion3ControlNetInpaintingPipeline",
    "Cosmos2_5_TransferPipeline",
)
"""Contracts whose pipelines run a ControlNet before each evaluation."""
WITHOUT_A_PROMPT = ("VisualClozePipeline", "VisualClozeGenerationPipeline", "Kandinsky6SRPipeline")
MIXED = "is not called after a step of the scheduler"  # of two steps it takes the last, from a noised picture
PARTS = "for one sample"
OTHER_FRAMES = "its call decodes latents of shape"
WIDER = 32
SOUND = "and not images or videos in colour"
CANNOT_BE_DECODED = {
    "control and image to image": MIXED,
    "FluxControlInpaintPipeline": MIXED,
    "packed image to image": MIXED,
    "packed inpainting": MIXED,
    "reference tokens and inpainting": MIXED,
    "attention mask and image to image": MIXED,
    "prediction negated, image to image": MIXED,
    "video autoencoder for images, image to image": MIXED,
    "video autoencoder for images, inpainting": MIXED,
    "begin index and scale_noise": MIXED,
    "noise mixed in again after every step": MIXED,
    "Flux2KleinInpaintPipeline": MIXED,
    "ChromaInpaintPipeline": MIXED,
    "FluxControlNetImg2ImgPipeline": MIXED,
    "FluxControlNetInpaintPipeline": MIXED,
    "QwenImageEditInpaintPipeline": MIXED,
    "StableDiffusion3PAGImg2ImgPipeline": MIXED,
    "prediction negated, inpainting": "do not depend on the sample",
    "copies of the scheduler, whole timesteps, one a frame": PARTS,
    "HunyuanVideoImageToVideoPipeline": PARTS,
    "QwenImageLayeredPipeline": PARTS,
    "WanAnimatePipeline": PARTS,
    "audio, times from 0 to 1, generator passed to step": SOUND,
    "audio, inverted sigmas, scheduler replaced by the constructor": SOUND,
    "StableAudio3AudioToAudioPipeline": SOUND,
    "StableAudio3InpaintPipeline": SOUND,
    "AceStepPipeline": SOUND,
    "Cosmos2_5_TransferPipeline": OTHER_FRAMES,
}
NO_OTHER_PROMPT = ("BriaFiboPipeline", "BriaFiboEditPipeline")  # the tiny encoder of one has no token for the end
ONE_SAMPLE = ("JoyImageEditPlusPipeline",)  # takes several images for a sample, and not several samples

TRAINED = [
    contract
    for contract in {**PIPELINES, **VARIANTS}
    if contract not in {*CANNOT_BE_CAPTURED, *WITHOUT_A_PROMPT, *CANNOT_BE_DECODED}
]
"""Contracts whose pipelines are trained on images or videos."""


class Stepped(BaseException):
    """Ends a call at the scheduler's first step."""


class Captured:
    """A tiny pipeline, its derived family, and its calls for several samples."""

    def __init__(self, contract):
        self.contract = contract
        self.set_up(*{**PIPELINES, **VARIANTS}[contract]())

    def set_up(self, pipe, call):
        self.pipe = pipe
        cls = type(self.pipe)
        if getattr(self.pipe, "controlnet", None) is not None:
            fill_zeros(self.pipe.controlnet)  # its output is zero before it is trained
        self.family = CapturedFamily(cls, *denoiser_of(cls))
        parameters = inspect.signature(cls.__call__).parameters
        steps = {"num_inference_steps": 2} if "num_inference_steps" in parameters else {"sigmas": [1.0, 0.5]}
        output = {"output_type": "latent"} if "output_type" in parameters else {}
        self.call = {**call, **steps, **output, **self.family.capture_options, **self.family.guidance_off}

    def call_of(self, count):
        if count == 1:
            return self.call
        if self.contract in ONE_SAMPLE:
            raise TwinFlowConfigError("one sample at a time")
        prompts = {"prompt": [self.call["prompt"]] * count} if isinstance(self.call.get("prompt"), str) else {}
        return {**repeat(self.contract, self.call, count), **prompts}

    def most(self):
        """The most samples of a call that are tried."""
        return 2 if self.family.layout.takes_several else 1

    def capture(self, count, seed):
        return capture_call(self.pipe, self.family.component_name, seed, **self.call_of(count))

    @torch.no_grad()
    def first_evaluation(self, count):
        """What the denoiser returns in the pipeline's own call, how often it is called, and what `step` is given."""
        seen = {"calls": 0}

        def record(module, args, output):
            seen["calls"] += 1
            seen["output"] = output

        def step(model_output, *args, **kwargs):
            seen["velocity"] = model_output
            raise Stepped

        scheduler, self.pipe.scheduler = self.pipe.scheduler, deepcopy(self.pipe.scheduler)
        self.pipe.scheduler.step = step
        turn_guiders_off(self.pipe)
        try:
            hook = self.family.denoiser(self.pipe).register_forward_hook(record)
            with hook, encoding_means(getattr(self.pipe, "vae", None)):
                self.pipe(**self.call_of(count), generator=torch.Generator().manual_seed(0))
        except Stepped:
            return seen
        finally:
            self.pipe.scheduler = scheduler

    @torch.no_grad()
    def velocity(self, count, condition=None):
        """The family's, of the noise and at the time of the pipeline's own call."""
        family, layout = self.family, self.family.layout
        arguments = (call := self.capture(count, 0)).arguments
        at_noise, at_data = layout.time_range

        def time_of(name):
            return ((arguments[name].float().flatten()[:1] - at_data) / (at_noise - at_data)).expand(count)

        r = time_of(layout.native_target) if layout.native_target else None
        parts = [(place, arguments[place.argument]) for place in layout.places]
        parts = [place.of(torch.stack(list(part)) if place.kind else part) for place, part in parts]
        x_t = torch.cat([part.flatten(1) for part in parts], 1) if layout.beside else parts[0]
        denoiser = family.denoiser(self.pipe)

        def model(target_timestep=None, **kwargs):  # the stock model has at most a target of its own
            own = {"target_timestep": target_timestep} if layout.native_target == "target_timestep" else {}
            return denoiser(**kwargs, **own)

        condition = condition or family.split_call(call, count)
        assert all(len(tensor) == count for tensor in condition.values())
        return family.velocity(model)(x_t, time_of(family.timestep_argument), r, None, condition)

    def first_evaluation_is_the_pipelines(self):
        """Hold the family's velocity against the one that the pipeline steps along, for as many samples as it takes."""
        family = self.family
        family.layout = family.find_layout(self.pipe, self.capture)
        count = self.most()
        self.hold_against_the_pipelines(self.velocity(count), count)

    @torch.no_grad()
    def second_evaluation_is_the_pipelines(self):
        """Hold the family's velocity against the pipeline's second evaluation, with the condition of the first one."""
        family, seen = self.family, []
        family.layout = layout = family.find_layout(self.pipe, self.capture)
        denoiser = family.denoiser(self.pipe)

        def record(module, args, kwargs, output):
            names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
            seen.append(({**dict(zip(names, args)), **kwargs}, output))

        condition = family.split_call(self.capture(1, 0), 1)
        hook = denoiser.register_forward_hook(record, with_kwargs=True)
        with hook, encoding_means(getattr(self.pipe, "vae", None)):
            self.pipe(**self.call | {"num_inference_steps": 3}, generator=torch.Generator().manual_seed(0))
        arguments, output = seen[1]
        x_t, time = (arguments[name] for name in (layout.sample.argument, family.timestep_argument))
        x_t = layout.sample.of(torch.stack(list(x_t)) if layout.sample.kind else x_t)
        at_noise, at_data = layout.time_range
        t = (time.float().flatten()[:1] - at_data) / (at_noise - at_data)
        assert 0.1 < t < 0.95
        ours = family.velocity(denoiser)(x_t, t, None, None, condition)
        expected = layout.read(output[0] if isinstance(output, tuple) else output)
        torch.testing.assert_close(ours, expected * family.prediction_sign, rtol=1e-5, atol=1e-5)

    def another_size_is_the_pipelines(self, monkeypatch):
        """The same for a sample of another width, with the condition of the prompt at the size of the call."""
        family, size = self.family, (self.call["height"], self.call["width"])

        has_encoder = isinstance(self.call.get("prompt"), str) and self.contract not in NO_OTHER_PROMPT
        asked = self.call["prompt"] if has_encoder else ""

        def capture(family, pipeline, prompts, seed=0, image=None):
            changed = {name: value for name, value in family.call_options.items() if name in ("height", "width")}
            if has_encoder:
                changed["prompt"] = prompts if len(prompts) > 1 else prompts[0]
            return capture_call(self.pipe, family.component_name, seed, **self.call_of(len(prompts)) | changed)

        monkeypatch.setattr(CapturedFamily, "_capture", capture)
        family.size, wider = size, (size[0], size[1] + WIDER)
        family._find_layout(self.pipe, asked)
        family.prepare_sizes(self.pipe, [size, wider])
        condition = None if family.takes_reference_image else family.encode_prompts(self.pipe, [asked])
        self.family, self.call = family.at_sizes[wider], self.call | {"width": wider[1]}
        self.hold_against_the_pipelines(self.velocity(1, condition), 1)

    def hold_against_the_pipelines(self, ours, count):
        family, own = self.family, self.first_evaluation(count)
        assert own["calls"] == 1
        sign = -1 if self.pipe.scheduler.config.get("invert_sigmas") else 1
        expected, size = own["velocity"] * sign, ours.abs().max().clamp_min(1)
        if expected.numel() != ours.numel():  # some pipelines step along a part of the frames
            expected = family.layout.read(own["output"]) * family.prediction_sign
        if expected.shape != ours.shape:  # others unpack what their denoiser returns
            expected, ours = expected.flatten().sort()[0], ours.flatten().sort()[0]
        torch.testing.assert_close(ours.float() / size, expected.float() / size, rtol=0, atol=1e-5)
