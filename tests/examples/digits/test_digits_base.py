import pytest
import torch
from autoencoder import build_autoencoder, encode_means, equalize_latent_channels, reconstruct, set_latent_statistics
from base import load_base
from build_base import build_transformer, parse_args
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from prepare_data import digit_prompt
from text import WORDS, build_text_encoder, build_tokenizer
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

PROMPTS = [digit_prompt(digit) for digit in range(10)]


def test_tokenizer_gives_one_token_a_word_and_comes_back_from_disk(tmp_path):
    tokenizer = build_tokenizer()
    for word in WORDS:
        assert len(tokenizer(word).input_ids) == 3  # start, word, end
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded.model_max_length == 8
    for prompt in [*PROMPTS, "", "A Handwritten SEVEN!", "the picture of a nine and two zeros"]:
        ids = tokenizer(prompt, padding="max_length", max_length=8, truncation=True).input_ids
        assert loaded(prompt, padding="max_length", max_length=8, truncation=True).input_ids == ids
        assert len(ids) == 8
    assert [tokenizer.decode(tokenizer(prompt).input_ids, skip_special_tokens=True) for prompt in PROMPTS] == PROMPTS


def test_text_encoder_tells_the_digits_apart():
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(tokenizer, seed=0)
    ids = tokenizer([*PROMPTS, ""], padding="max_length", max_length=8, return_tensors="pt").input_ids
    pooled = encoder(ids).text_embeds
    apart = torch.cdist(pooled, pooled) + torch.eye(11) * 1e9
    assert apart.min() > 0.1 * pooled.norm(dim=1).mean()
    assert torch.equal(build_text_encoder(tokenizer, seed=0)(ids).text_embeds, pooled)


def test_equal_latent_channels_leave_the_reconstruction():
    torch.manual_seed(0)
    autoencoder, images = build_autoencoder().eval().requires_grad_(False), torch.rand(16, 3, 32, 32)
    before = reconstruct(autoencoder, images)
    deviation = autoencoder.encode(2 * images - 1).latent_dist.std
    scale = encode_means(autoencoder, images).std(dim=(0, 2, 3), correction=0)
    equalize_latent_channels(autoencoder, images)
    set_latent_statistics(autoencoder, images)
    latents = encode_means(autoencoder, images)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3), correction=0), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(reconstruct(autoencoder, images), before, atol=1e-4, rtol=0)
    posterior = autoencoder.encode(2 * images - 1).latent_dist
    torch.testing.assert_close(posterior.std, deviation / scale.view(1, -1, 1, 1), rtol=1e-3, atol=1e-6)
    assert autoencoder.config.scaling_factor == pytest.approx(1, abs=1e-4)


def test_untrained_transformer_predicts_zero():
    transformer = build_transformer(seed=0)
    inputs = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 9, 64),
        "pooled_projections": torch.randn(2, 64),
        "timestep": torch.tensor([10.0, 900.0]),
    }
    assert transformer(**inputs).sample.abs().max() == 0


def test_stock_pipeline_draws_with_the_base(base_dir):
    pipeline = load_base(base_dir)
    kinds = {
        "transformer": SD3Transformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer,
        "scheduler": FlowMatchEulerDiscreteScheduler,
    }
    for name, kind in kinds.items():
        assert type(getattr(pipeline, name)) is kind
    assert pipeline.text_encoder.dtype == pipeline.transformer.dtype == pipeline.vae.dtype == torch.float32
    options = {"num_inference_steps": 2, "guidance_scale": 2.0, "max_sequence_length": 1, "output_type": "pt"}
    images = pipeline(["a handwritten seven", "a handwritten two"], **options).images
    assert images.shape == (2, 3, 32, 32) and images.isfinite().all()


def test_base_on_disk_is_small_and_only_safetensors(base_dir):
    files = [path for path in base_dir.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}


def test_missing_base_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"base=.*README\.md"):
        load_base(tmp_path)


def test_too_few_autoencoder_steps_are_refused(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--vae_steps", "0"])
    assert "--vae_steps=0 is not valid" in capsys.readouterr().err
