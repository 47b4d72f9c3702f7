"""`TwinFlowPipeline.from_pretrained` of repositories in the layouts that the TwinFlow authors publish."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from diffusers_twinflow import TwinFlowConfigError, TwinFlowPipeline, TwinFlowScheduler
from diffusers_twinflow.cli.main import main
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, load_published_transformer
from diffusers_twinflow.models import SecondEmbedder
from diffusers_twinflow.pipelines.exporting import export
from tests import tiny
from tests.families import tiny_qwen, tiny_z_image
from tests.hub.repositories import write_repository
from tests.published import (
    QWEN_FOLDER,
    WEIGHTS,
    Z_IMAGE_FOLDER,
    add_second_embedder,
    change_json,
    write_published,
    write_published_transformer,
)

CLOSE = {"rtol": 1e-3, "atol": 1e-4}
GRIDS = {2: [0.999, 0.6, 0.0], 4: [0.999, 0.999 - 0.499 / 3, 0.999 - 0.998 / 3, 0.5, 0.0]}
UPLOAD = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo(sys.argv[2]); HfApi().upload_folder(repo_id=sys.argv[2], folder_path=sys.argv[1])
"""
DRAW = """
import sys, torch
from diffusers_twinflow import TwinFlowConfigError, TwinFlowPipeline
try:
    pipe = TwinFlowPipeline.from_pretrained(sys.argv[1], **eval(sys.argv[2]))
except TwinFlowConfigError as error:
    sys.exit(f"error: {error}")
torch.save(pipe("a", height=32, width=32, output_type="latent", generator=torch.manual_seed(0)).images, sys.argv[3])
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The authors' two repositories, at tiny size."""
    root = tmp_path_factory.mktemp("authors")
    qwen, z_image = root / "TwinFlow" / QWEN_FOLDER, root / "TwinFlow-Z-Image-Turbo" / Z_IMAGE_FOLDER
    write_published(qwen, tiny_qwen.qwen_image(), shards=2)
    entry = ["diffusers_patch.qwen_image.transformer_qwenimage", "QwenImageTransformer2DModelWrapper"]
    change_json(qwen / "model_index.json", transformer=entry)
    write_published(z_image, tiny_z_image.z_image(), wrapper=False)
    for path in (qwen.parent, z_image):
        (path / "demo.bin").write_bytes(b"not asked for")
    return {"qwen": root / "TwinFlow", "z_image": root / "TwinFlow-Z-Image-Turbo"}


@pytest.fixture(scope="module")
def on_the_hub(hub, folders):
    """The ids of the two repositories on the server, and their folders here; the base of the first is there too."""
    ids = {"inclusionAI/TwinFlow": folders["qwen"], "inclusionAI/TwinFlow-Z-Image-Turbo": folders["z_image"]}
    for repo_id, folder in ids.items():
        hub.run(UPLOAD, folder, repo_id, token="hf_authors").check()
    return ids


@pytest.fixture(scope="module")
def base_on_the_hub(hub, tmp_path_factory):
    base = tmp_path_factory.mktemp("qwen") / "base"
    tiny_qwen.qwen_image().save_pretrained(base)
    hub.run(UPLOAD, base, "Qwen/Qwen-Image", token="hf_base").check()
    return base


@pytest.fixture
def copy_of(folders, tmp_path):
    return lambda name: shutil.copytree(folders[name], tmp_path / name)


def draw(pipeline, **options):
    pipeline.set_progress_bar_config(disable=True)
    options = {"height": 32, "width": 32, "output_type": "latent", **options}
    return pipeline("a", generator=torch.manual_seed(0), **options).images


def record_targets(pipeline):
    calls = []
    pipeline.transformer.time_conditioning.register_forward_pre_hook(lambda _, times: calls.append(times[1].item()))
    return calls


@pytest.mark.parametrize("name, at_data", [("qwen", 0.0), ("z_image", 1.0)])
def test_the_authors_settings(folders, name, at_data):
    pipeline = TwinFlowPipeline.from_pretrained(folders[name])
    assert isinstance(pipeline.transformer.time_conditioning, SecondEmbedder)
    assert pipeline.twinflow_config.family.startswith(name) and pipeline.transformer.dtype == torch.float32
    targets = record_targets(pipeline)
    draw(pipeline)
    assert targets == [at_data] * 4
    for steps, sigmas in GRIDS.items():
        draw(pipeline, num_inference_steps=steps)
        torch.testing.assert_close(pipeline.scheduler.sigmas, torch.tensor(sigmas))
    assert pipeline.scheduler.config.stochastic_ratio == 1.0


@pytest.mark.parametrize("name", ["qwen", "z_image"])
def test_the_second_embedder_draws(folders, name):
    """As a stock pipeline with the transformer that is loaded by itself, and not as the stock transformer."""
    pipeline = TwinFlowPipeline.from_pretrained(folders[name])
    (index,) = folders[name].rglob("model_index.json")
    by_hand = load_published_transformer(index.parent, subfolder="transformer")
    options = {"true_cfg_scale": 1.0} if name == "qwen" else {"guidance_scale": 0.0}
    stock = type(pipeline).stock_class(**pipeline.components | {"transformer": by_hand})
    latents = draw(pipeline)
    torch.testing.assert_close(draw(stock, num_inference_steps=4, **options), latents, **CLOSE)
    by_hand.disable_twinflow()
    assert (draw(stock, num_inference_steps=4, **options) - latents).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["qwen", "z_image"])
def test_saved_and_loaded_again(folders, name, tmp_path):
    pipeline = TwinFlowPipeline.from_pretrained(folders[name])
    pipeline.save_pretrained(tmp_path)
    again = TwinFlowPipeline.from_pretrained(tmp_path)
    assert again.twinflow_config.num_inference_steps == 4
    torch.testing.assert_close(draw(again), draw(pipeline), **CLOSE)


@pytest.mark.parametrize(
    ("name", "exports"),
    [
        ("qwen", False),
        ("z_image", True),
        pytest.param("qwen", True, marks=pytest.mark.slow),
        pytest.param("z_image", False, marks=pytest.mark.slow),
    ],
)
def test_stock_diffusers_draws_the_same_from_what_we_save_and_export(folders, name, exports, tmp_path):
    """The second embedder is in the weights of the first."""
    pipeline = TwinFlowPipeline.from_pretrained(folders[name])
    use = export(folders[name], tmp_path / "stock", "merged")
    if not exports:
        pipeline.save_pretrained(tmp_path / "saved")
    stock = DiffusionPipeline.from_pretrained(tmp_path / ("stock" if exports else "saved"))
    assert type(stock.transformer).__name__.startswith(("Qwen", "ZImage"))
    options = use.call_options
    for steps in (2, 4):
        stock.scheduler = TwinFlowScheduler.from_config(pipeline.scheduler.config)
        expected = draw(pipeline, num_inference_steps=steps)
        bound = {"rtol": 0, "atol": 1e-4 * expected.abs().max().item()}
        torch.testing.assert_close(draw(stock, num_inference_steps=steps, **options), expected, **bound)
    stock.scheduler = FlowMatchEulerDiscreteScheduler(**use.scheduler_options)  # it draws other noise after a step
    latents = draw(stock, num_inference_steps=1, sigmas=use.sigmas[1], **options)
    torch.testing.assert_close(latents, draw(pipeline, num_inference_steps=1), **CLOSE)


@pytest.mark.parametrize(
    "repo_id", ["inclusionAI/TwinFlow", pytest.param("inclusionAI/TwinFlow-Z-Image-Turbo", marks=pytest.mark.slow)]
)
def test_from_the_hub_in_one_line(hub, on_the_hub, tmp_path, repo_id):
    """Configurations, then the files of one folder; a second time nothing, and the same without a connection."""
    before = len(hub.log())
    hub.run(DRAW, repo_id, {}, tmp_path / "latents.pt", home=tmp_path / "home", token=None).check()
    log = hub.log()[before:]
    assert not any("demo.bin" in line for line in log)
    expected = draw(TwinFlowPipeline.from_pretrained(on_the_hub[repo_id]))
    torch.testing.assert_close(torch.load(tmp_path / "latents.pt"), expected, **CLOSE)
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        before = len(hub.log())
        hub.run(DRAW, repo_id, {}, tmp_path / "again.pt", home=tmp_path / "home", token=None, **variables).check()
        assert not any("/lfs/" in line for line in hub.log()[before:])
        torch.testing.assert_close(torch.load(tmp_path / "again.pt"), expected, **CLOSE)


def test_a_transformer_alone_gets_its_base(hub, base_on_the_hub, tmp_path):
    """The one that the caller names, that the model card names, or the usual one of the family."""
    there = tmp_path / "there"
    write_published_transformer(there / "some" / "transformer", tiny_qwen.transformer())
    (there / "README.md").write_text("---\nbase_model: me/missing-base\n---\n")
    hub.run(UPLOAD, there, "me/missing").check()
    missing = hub.run(DRAW, "me/missing", {}, "-")
    assert missing.returncode and "'me/missing-base' is not on the Hub" in missing.stderr
    hub.run(UPLOAD, base_on_the_hub, "me/other-base").check()
    local = draw(TwinFlowPipeline.from_pretrained(there, base_model=str(base_on_the_hub)))
    hub.run(DRAW, "me/missing", {"base_model": "me/other-base"}, tmp_path / "named.pt").check()
    (there / "README.md").write_text("---\nbase_model: [a/b, c/d]\n---\n")
    assert TwinFlowRepositoryConfig.load(there).base_model == "Qwen/Qwen-Image"
    hub.run(UPLOAD, there, "me/usual").check()
    hub.run(DRAW, "me/usual", {}, tmp_path / "usual.pt").check()
    for name in ("named", "usual"):
        torch.testing.assert_close(torch.load(tmp_path / f"{name}.pt"), local, **CLOSE)


def test_a_base_that_nobody_names(tmp_path):
    write_published_transformer(tmp_path, tiny.sd3_transformer())
    with pytest.raises(TwinFlowConfigError, match="names no base model. Pass the folder"):
        TwinFlowPipeline.from_pretrained(tmp_path)
    with pytest.raises(TwinFlowConfigError, match="elsewhere"):
        TwinFlowPipeline.from_pretrained(tmp_path, base_model=str(tmp_path / "elsewhere"))


def test_two_candidates_ask_for_a_subfolder(hub, copy_of, tmp_path):
    directory = copy_of("z_image")
    shutil.copytree(directory / Z_IMAGE_FOLDER, directory / "older" / "exp")
    hub.run(UPLOAD, directory, "me/two-models").check()
    message = f"contains 2 TwinFlow models: '{Z_IMAGE_FOLDER}', 'older/exp'. Pass one of them as subfolder="
    with pytest.raises(TwinFlowConfigError, match=message):
        TwinFlowPipeline.from_pretrained(directory)
    with pytest.raises(TwinFlowConfigError, match=message):
        TwinFlowRepositoryConfig.load(directory)
    failed = hub.run(DRAW, "me/two-models", {}, "-")
    assert failed.returncode and message in failed.stderr
    hub.run(DRAW, "me/two-models", {"subfolder": "older/exp"}, tmp_path / "latents.pt").check()
    local = TwinFlowPipeline.from_pretrained(directory, subfolder="older/exp")
    torch.testing.assert_close(torch.load(tmp_path / "latents.pt"), draw(local), **CLOSE)
    alone = TwinFlowPipeline.from_pretrained(
        directory, subfolder=f"{Z_IMAGE_FOLDER}/transformer", base_model=str(directory / "older" / "exp")
    )
    torch.testing.assert_close(draw(alone), draw(local), **CLOSE)


def test_a_model_of_ours_in_a_folder_is_named_too(tmp_path, base_dir):
    write_repository(tmp_path / "loras" / "fast", str(base_dir))
    with pytest.raises(TwinFlowConfigError, match="Pass subfolder='loras/fast'"):
        TwinFlowPipeline.from_pretrained(tmp_path)
    write_published_transformer(tmp_path / "theirs", tiny_qwen.transformer())
    with pytest.raises(TwinFlowConfigError, match="'loras/fast', 'theirs'. Pass one of them as subfolder="):
        TwinFlowPipeline.from_pretrained(tmp_path)


def plain_transformer(directory):
    folder = directory / Z_IMAGE_FOLDER / "transformer"
    shutil.rmtree(folder)
    tiny_z_image.z_image().transformer.save_pretrained(folder)


def other_layout(directory):
    path = directory / Z_IMAGE_FOLDER / "transformer" / "config.json"
    change_json(path, _class_name="SomethingElse2DModel")


def no_weights(directory):
    (directory / Z_IMAGE_FOLDER / "transformer" / WEIGHTS).unlink()


@pytest.mark.parametrize("breakage", [plain_transformer, other_layout, no_weights])
def test_an_unknown_layout(hub, copy_of, breakage):
    directory = copy_of("z_image")
    breakage(directory)
    message = (
        f"contain no transformer in a layout of the TwinFlow authors or of SimpleTuner. If one of '{Z_IMAGE_FOLDER}'"
    )
    with pytest.raises(TwinFlowConfigError, match=message):
        TwinFlowPipeline.from_pretrained(directory)
    repo_id = f"me/{breakage.__name__}".replace("_", "-")
    hub.run(UPLOAD, directory, repo_id).check()
    failed = hub.run(DRAW, repo_id, {}, "-")
    assert failed.returncode and message in failed.stderr and failed.stderr.count("error:") == 1


def test_damaged_weights_and_components(copy_of):
    directory = copy_of("z_image")
    weights = directory / Z_IMAGE_FOLDER / "transformer" / WEIGHTS
    weights.write_bytes(b"\xff" * 100)
    with pytest.raises(TwinFlowConfigError, match="is not a safetensors file"):
        TwinFlowPipeline.from_pretrained(directory)
    directory = shutil.copytree(directory, directory.with_name("again"))
    shutil.rmtree(directory / Z_IMAGE_FOLDER / "transformer")
    transformer = tiny_z_image.z_image().transformer
    transformer.save_pretrained(directory / Z_IMAGE_FOLDER / "transformer")
    add_second_embedder(directory / Z_IMAGE_FOLDER / "transformer", transformer)
    weights = directory / Z_IMAGE_FOLDER / "transformer" / WEIGHTS
    tensors = load_file(weights)
    save_file(tensors | {"t_embedder_2.mlp.0.bias": tensors["t_embedder_2.mlp.0.bias"] * torch.nan}, weights)
    with pytest.raises(TwinFlowConfigError, match="has values that are not finite"):
        TwinFlowPipeline.from_pretrained(directory)
    config = directory / Z_IMAGE_FOLDER / "transformer" / "config.json"
    change_json(config, n_layers=10**6)
    with pytest.raises(TwinFlowConfigError, match="n_layers=1000000, which is too large for its weights"):
        TwinFlowPipeline.from_pretrained(directory)
    (directory / Z_IMAGE_FOLDER / "vae" / WEIGHTS).unlink()
    with pytest.raises(TwinFlowConfigError, match="'vae' has no safetensors weights"):
        TwinFlowPipeline.from_pretrained(directory)


def test_folders_outside_are_not_looked_into(folders, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(folders["z_image"])
    with pytest.raises(TwinFlowConfigError, match="so it is not a TwinFlow repository"):
        TwinFlowPipeline.from_pretrained(tmp_path / "here")


def test_a_class_without_a_pipeline_here(tmp_path):
    """SimpleTuner publishes classes that no family draws with."""
    save_file({"time_embed.time_sign_embed.weight": torch.ones(2, 8)}, tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text('{"_class_name": "Krea2Transformer2DModel"}')
    with pytest.raises(TwinFlowConfigError, match="load_published_transformer, pass it to its stock pipeline"):
        TwinFlowPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("option", [{"device_map": "balanced"}, {"quantization_config": object()}])
def test_options_that_a_loaded_transformer_cannot_have(folders, option):
    with pytest.raises(TwinFlowConfigError, match="diffusers-twinflow convert"):
        TwinFlowPipeline.from_pretrained(folders["qwen"], **option)


def test_components_and_dtypes_of_the_caller(folders):
    scheduler = TwinFlowScheduler(gap_end=0.3)
    pipeline = TwinFlowPipeline.from_pretrained(
        folders["qwen"], scheduler=scheduler, dtype={"transformer": torch.bfloat16, "default": torch.float32}
    )
    assert pipeline.scheduler is scheduler
    assert (pipeline.transformer.dtype, pipeline.vae.dtype) == (torch.bfloat16, torch.float32)
    again = TwinFlowPipeline.from_pretrained(folders["qwen"], transformer=pipeline.transformer)
    assert again.transformer is pipeline.transformer


def test_the_command_line_reads_them(folders, tmp_path, capsys):
    assert main(["info", str(folders["qwen"]), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["family"], values["train_type"], values["num_inference_steps"]) == ("qwen_image", "full", 4)
    assert (values["published_in"], values["time_conditioning"]) == (QWEN_FOLDER, "second_embedder")
    arguments = ["--adapter", str(folders["z_image"]), "--out", str(tmp_path / "a.png"), "--height", "32"]
    assert main(["generate", "a", *arguments, "--width", "32", "--device", "cpu"]) == 0
    assert (tmp_path / "a.png").exists()


def documented(language, *texts):
    """The blocks of docs/models.md in a language that hold all of these texts."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    found = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    return [block for block in found if all(text in block for text in texts)]


def test_the_code_in_the_docs(hub, on_the_hub, base_on_the_hub, tmp_path):
    """As written, but for the device and the size of the images."""
    blocks = documented("python", "inclusionAI/")
    assert len(blocks) == 2
    for block in blocks:
        block = block.replace('.to("cuda")', "").replace(
            'pipe("a lighthouse"', 'pipe("a lighthouse", height=32, width=32'
        )
        hub.run(f"{block}\nassert image.size == (32, 32)", token=None).check()
    lines = [line for block in documented("bash", "inclusionAI/") for line in block.splitlines()]
    assert [line.split()[1] for line in lines] == ["info", "generate", "convert"]
    for line in lines:
        arguments = shlex.split(line)[1:]
        arguments += ["--height", "32", "--width", "32", "--device", "cpu"] if arguments[0] == "generate" else []
        code = f"import os; os.chdir({str(tmp_path)!r}); from diffusers_twinflow.cli import main; assert main({arguments}) == 0"
        hub.run(code, token=None).check()
    assert (tmp_path / "lighthouse.png").exists() and (tmp_path / "qwen-transformer" / "config.json").exists()
