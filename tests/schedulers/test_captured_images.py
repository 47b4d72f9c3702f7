"""Images and videos as samples of stock pipelines, held against the statistics of their autoencoders, and a LoRA step."""

import copy

import pytest
import torch

from diffusers_twinflow import TwinFlowConfig, load_twinflow_lora
from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data.batches import LatentBatches
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.families.decode_capture import Decoder
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training import Trainer, TrainingArguments
from tests.fresh_accelerator import fresh_accelerator
from tests.schedulers.captured_pipelines import CANNOT_BE_DECODED, TRAINED, Captured
from tests.schedulers.stock_pipelines.batches import RESIZES
from tests.smaller_pictures import resize_to

LEAVES_SHIFT_OUT = (
    "steps only, learned positions",
    "timesteps and sigmas at once",
    "channels last",
    "LuminaPipeline",
)
CHANNELS_LAST = ("Ideogram4Pipeline",)  # in its patches of 2 x 2
REPRESENTATIVES = (
    "reference tokens",
    "time by the scheduler's own scale",
    "the pipeline reads the next sigma as its target time",
    "Flux2KleinPipeline",
    "Kandinsky5T2VPipeline",
    "QwenImage21Pipeline",
)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    resize_to(32 * 32, RESIZES, monkeypatch)


def each_pipeline(of):
    return [pytest.param(each, marks=() if each in REPRESENTATIVES else pytest.mark.slow) for each in of]


def captured(contract):
    """The pipeline, with statistics of its autoencoder that are not the trivial ones, and its call for pixels."""
    found = Captured(contract)
    generator = torch.Generator().manual_seed(7)
    if hasattr(found.pipe.vae, "bn"):
        found.pipe.vae.bn.running_mean.normal_(generator=generator)
        found.pipe.vae.bn.running_var.uniform_(0.5, 2, generator=generator)
    found.family.layout = found.family.find_layout(found.pipe, found.capture)
    call = {name: value for name, value in found.call.items() if name != "output_type"}
    decoder = Decoder(found.pipe, found.family.component_name, found.family.layout.sample, call)
    return found, decoder


def pixels_for(decoder):
    decoded = decoder.run(0.0, decodes=True).decoded
    return torch.rand(1, 3, *decoded.shape[2:], generator=torch.Generator().manual_seed(8)) * 2 - 1


@pytest.mark.parametrize("contract", each_pipeline(TRAINED))
@torch.no_grad()
def test_latents_are_normalised_as_the_autoencoder_says(contract):
    found, decoder = captured(contract)
    found.family.find_codec(decoder, pixels_for(decoder))
    latents = found.family.codec.map
    scale, shift = (latents.to_latents(x.expand(1, *latents.sample_shape)) for x in (torch.ones(1), torch.zeros(1)))
    for ours, expected in zip((scale - shift, shift), statistics(contract, found.pipe.vae, scale.shape)):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def statistics(contract, vae, shape):
    """Scale and shift of a latent of every place, by the autoencoder's config."""
    config = vae.config
    if hasattr(vae, "bn"):
        mean, std = vae.bn.running_mean, (vae.bn.running_var + config.get("batch_norm_eps", 1e-5)).sqrt()
        return [of_patches(each, shape, contract in CHANNELS_LAST) for each in (std, mean)]
    held = dict(vae.named_buffers())
    mean, std = (held.get(name, config.get(name)) for name in ("latents_mean", "latents_std"))
    if mean is None:
        shift = 0.0 if contract in LEAVES_SHIFT_OUT else config.get("shift_factor") or 0.0
        return torch.full(shape, 1 / config.get("scaling_factor", 1)), torch.full(shape, shift)
    channels = (1, -1, *[1] * (len(shape) - 2))
    return [torch.as_tensor(each).reshape(channels).expand(shape) for each in (std, mean)]


def of_patches(values, shape, channels_last):
    """The values of all channels of 2 x 2 patches, at the places of the patches' pixels."""
    patch = values.reshape(2, 2, -1).permute(2, 0, 1) if channels_last else values.reshape(-1, 2, 2)
    return patch[None].repeat(1, 1, shape[-2] // 2, shape[-1] // 2)


@pytest.mark.slow
@pytest.mark.parametrize("contract", CANNOT_BE_DECODED)
@torch.no_grad()
def test_a_pipeline_whose_decoding_cannot_be_inverted_is_named(contract):
    found, decoder = captured(contract)
    with pytest.raises(TwinFlowConfigError, match=f"(?s)cannot be trained on images: .*{CANNOT_BE_DECODED[contract]}"):
        found.family.find_codec(decoder, torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("contract", each_pipeline(TRAINED))
def test_a_lora_step_on_data_to_a_sample(contract, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    found, decoder = captured(contract)
    family = copy.copy(found.family)
    if family.name not in FAMILIES:
        pytest.skip("it has a written family, which tests/families trains")
    with torch.no_grad():
        pixels = pixels_for(decoder)
        family.find_codec(decoder, pixels)
        latents = family.codec.encode(pixels).mean[0]
        condition = {name: each[0] for name, each in family.split_call(found.capture(1, 0), 1).items()}
    config = TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True, twinflow_enhanced_ratio=0)
    arguments = TrainingArguments(
        str(base),
        output_dir=str(tmp_path),
        train_batch_size=1,
        max_train_steps=1,
        learning_rate=1e-2,
        rank=2,
        save_ema=False,
        use_ema=None,
    )
    data = LatentBatches([{"latents": latents, "condition": condition}], batch_size=1, seed=0)
    with fresh_accelerator():
        trainer = Trainer(found.pipe, arguments, TwinFlow(config), data, family=family)
        trainer.train()
        trainer.save()
    assert not trainer.problems

    fresh = Captured(contract)
    before = draw(fresh)
    load_twinflow_lora(fresh.pipe, tmp_path)
    after = draw(fresh)
    assert after.isfinite().all() and not torch.equal(before, after)


@torch.no_grad()
def draw(found):
    output = found.pipe(**found.call, generator=torch.Generator().manual_seed(0), return_dict=False)[0]
    return torch.stack(list(output)) if isinstance(output, list) else output
