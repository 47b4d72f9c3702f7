import build_epsilon_base
import epsilon_demo
import pytest
import torch
import torch.nn.functional as F
from base import load_base
from diffusers import DDIMScheduler, StableDiffusionPipeline
from prepare_data import digit_prompt
from score import draw_samples, initial_noise

PROMPTS = [*(digit_prompt(digit) for digit in range(10)), ""]


@pytest.fixture(scope="module")
def epsilon_dir(base_dir, splits, tmp_path_factory):
    """A base that has seen thirty batches of 200 digits."""
    output_dir = tmp_path_factory.mktemp("epsilon")
    pipeline = build_epsilon_base.assemble(base_dir, [16, 16], seed=0)
    images, labels = (tensor[:200] for tensor in splits["train"])
    args = build_epsilon_base.parse_args(["--steps", "30", "--batch_size", "8"])
    build_epsilon_base.train_unet(pipeline, images, labels, args)
    pipeline.save_pretrained(output_dir)
    return output_dir


def test_training_lowers_the_error_of_the_noise(base_dir, splits, epsilon_dir):
    untrained = build_epsilon_base.assemble(base_dir, [16, 16], seed=0)
    trained = StableDiffusionPipeline.from_pretrained(epsilon_dir)
    latents, embeddings = build_epsilon_base.encode(trained, splits["test"][0][:64])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.linspace(100, 900, 64).long()
    noisy = trained.scheduler.add_noise(latents, noise, timesteps)
    with torch.no_grad():
        before, after = (
            F.mse_loss(pipeline.unet(noisy, timesteps, embeddings[:1].expand(64, -1, -1)).sample, noise)
            for pipeline in (untrained, trained)
        )
    assert after < 0.8 * before


def test_parts_are_those_of_the_digits_base(base_dir, epsilon_dir):
    digits, pipeline = load_base(base_dir), StableDiffusionPipeline.from_pretrained(epsilon_dir)
    ids = digits.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    expected = digits.text_encoder(ids).last_hidden_state
    _, embeddings = build_epsilon_base.encode(pipeline, torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(embeddings, expected)
    assert isinstance(pipeline.scheduler, DDIMScheduler) and pipeline.scheduler.config.prediction_type == "epsilon"


def test_columns_of_the_base(epsilon_dir, tmp_path):
    """What the demo draws before it needs the distilled model: their counts are the evaluations that the UNet makes."""
    args, _ = epsilon_demo.parse_args(["--base", str(epsilon_dir), "--device", "cpu"])
    seen, columns = [], epsilon_demo.columns_to_score(args, tmp_path)
    for steps in (100, 50, 1, 4, 50):
        pipeline, column = next(columns)
        assert column.evaluations == steps
        if steps in (1, 4):
            hook = pipeline.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
            images = draw_samples(column, initial_noise(pipeline, 10, seed=0), batch_size=10, seed=0)
            hook.remove()
            assert images.shape == (10, 3, 32, 32) and sum(seen) == 10 * steps
            seen.clear()
    assert column.name == "base, 50 evaluations, bridged"
    assert type(pipeline.scheduler).__name__ == "TwinFlowScheduler"
