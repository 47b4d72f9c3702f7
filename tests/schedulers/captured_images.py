"""Images and videos as samples of tiny pipelines whose calls are captured, and LoRAs that are trained on them."""

import copy

import torch

from diffusers_twinflow import TwinFlowConfig, load_twinflow_lora
from diffusers_twinflow.data.batches import LatentBatches
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training import Trainer, TrainingArguments
from tests.fresh_accelerator import fresh_accelerator

LEAVES_SHIFT_OUT = (
    "steps only, learned positions",
    "timesteps and sigmas at once",
    "channels last",
    "CogView4ControlPipeline",
    "Kandinsky5I2IPipeline",
    "LuminaPipeline",
)
CHANNELS_LAST = ("Ideogram4Pipeline",)  # in its patches of 2 x 2


def decoder_of(found):
    """The call for pixels of a captured pipeline, with statistics of its autoencoder that are not the trivial ones."""
    generator = torch.Generator().manual_seed(7)
    if hasattr(found.pipe.vae, "bn"):
        found.pipe.vae.bn.running_mean.normal_(generator=generator)
        found.pipe.vae.bn.running_var.uniform_(0.5, 2, generator=generator)
    found.family.layout = found.family.find_layout(found.pipe, found.capture)
    call = {name: value for name, value in found.call.items() if name != "output_type"}
    return found.family.decoder(found.pipe, call)


def pixels_for(decoder):
    decoded = decoder.run(0.0, decodes=True)[0].decoded
    return torch.rand(1, 3, *decoded.shape[2:], generator=torch.Generator().manual_seed(8)) * 2 - 1


def latents_are_normalised(found, decoder):
    """Hold the samples of images against the statistics of the autoencoder."""
    found.family.find_codec(decoder, pixels_for(decoder))
    latents = found.family.codec.pixels.map
    scale, shift = (latents.to_latents(x.expand(1, *latents.sample_shape)) for x in (torch.ones(1), torch.zeros(1)))
    for ours, expected in zip((scale - shift, shift), statistics(found.contract, found.pipe.vae, scale.shape)):
        torch.testing.assert_close(ours, expected.float(), rtol=1e-4, atol=1e-4)


def in_half_precision(found):
    """Convert the networks of a captured pipeline, and the tensors of its call."""
    found.pipe.to(torch.bfloat16)
    for name, value in found.call.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            found.call[name] = value.bfloat16()
    return found


def statistics(contract, vae, shape):
    """Scale and shift of a latent of every place, by the autoencoder's config."""
    config = vae.config
    if hasattr(vae, "bn"):
        mean, std = vae.bn.running_mean, (vae.bn.running_var.float() + config.get("batch_norm_eps", 1e-5)).sqrt()
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


def train_on_a_sample(found, decoder, folder):
    """Train a LoRA for a step on one encoded image, and save it in the folder."""
    base = folder / "base"
    base.mkdir()
    family = copy.copy(found.family)
    with torch.no_grad():
        family.find_codec(decoder, pixels_for(decoder))
        latents = family.codec.encode(pixels_for(decoder)).mean[0]
        condition = {name: each[0] for name, each in family.split_call(found.capture(1, 0), 1).items()}
    config = TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True, twinflow_enhanced_ratio=0)
    arguments = TrainingArguments(
        str(base),
        output_dir=str(folder),
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


def loaded_lora_changes_samples(fresh, folder):
    """Load the LoRA in the folder into a fresh pipeline."""
    before = draw(fresh)
    load_twinflow_lora(fresh.pipe, folder)
    after = draw(fresh)
    assert after.isfinite().all() and not torch.equal(before, after)


@torch.no_grad()
def draw(found):
    output = found.pipe(**found.call, generator=torch.Generator().manual_seed(0), return_dict=False)[0]
    return torch.stack(list(map(torch.as_tensor, output))) if isinstance(output, list) else torch.as_tensor(output)
