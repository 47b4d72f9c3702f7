"""The real client of the Hub with a local server. Every push and pull runs in a new process."""

import hashlib
import json
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from diffusers_twinflow import TwinFlowConfigError, push_twinflow_lora
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, push_twinflow_model, save_model_card
from diffusers_twinflow.hub.files import CARD_NAME, CONDITIONING_NAME, CONFIG_NAME, LORA_NAME, SCHEDULER_NAME
from diffusers_twinflow.hub.pushable import check_pushable

WEIGHTS = "diffusion_pytorch_model.safetensors"
FILES = {CONFIG_NAME, LORA_NAME, CONDITIONING_NAME, SCHEDULER_NAME}
REPO = "me/tiny-twinflow"

PUSH = """
import sys
from diffusers_twinflow import push_twinflow_lora
info = push_twinflow_lora(sys.argv[1], sys.argv[2], base_model="me/tiny-sd3", **eval(sys.argv[3]))
print(info.oid)
"""
PULL = """
import sys
from diffusers_twinflow.hub.files import locate_repository
from diffusers_twinflow.hub import TwinFlowRepositoryConfig
from diffusers_twinflow import TwinFlowConfigError
try:
    repository = locate_repository(sys.argv[1], **eval(sys.argv[2]))
    print(TwinFlowRepositoryConfig.load_located(repository).num_inference_steps)
    print(sorted(str(p.relative_to(repository.directory)) for p in repository.directory.rglob("*") if p.is_file()))
    print(repository.find("pytorch_lora_weights.safetensors").read_bytes().hex())
except TwinFlowConfigError as error:
    print("error:", error)
"""
PIPELINE = """
import sys, torch
from diffusers_twinflow import TwinFlowPipeline
pipe = TwinFlowPipeline.from_pretrained(sys.argv[1], dtype=torch.float32, **eval(sys.argv[2]))
images = pipe("a picture", generator=torch.Generator().manual_seed(0), output_type="pt").images
print(type(pipe).__name__, type(pipe.scheduler).__name__, images.double().sum().item())
"""
PUBLISH = """
import logging, sys
from diffusers_twinflow import push_twinflow_lora
from diffusers_twinflow.hub import save_model_card
logging.basicConfig(level=logging.DEBUG)
save_model_card(sys.argv[1], sys.argv[2], prompts=["a fox"], scores={"distance": 3.9}, base_model="me/tiny-sd3")
push_twinflow_lora(sys.argv[1], sys.argv[2], token="hf_writer", private=True, base_model="me/tiny-sd3")
"""
STOCK = """
import sys, warnings, logging
from diffusers import StableDiffusion3Pipeline
pipe = StableDiffusion3Pipeline.from_pretrained("me/tiny-sd3", text_encoder_3=None, tokenizer_3=None)
pipe.load_lora_weights(sys.argv[1])
layer = pipe.transformer.transformer_blocks[0].attn.to_q
print(list(layer.scaling.values()), type(pipe.transformer).__name__, "diffusers_twinflow" in sys.modules)
"""
BESIDE = """
import sys
from diffusers import StableDiffusion3Pipeline
from diffusers_twinflow import load_twinflow_lora
pipe = StableDiffusion3Pipeline.from_pretrained("me/tiny-sd3", text_encoder_3=None, tokenizer_3=None)
load_twinflow_lora(pipe, sys.argv[1], revision="main", adapter_name="fast")
print(pipe.get_active_adapters(), type(pipe.scheduler).__name__)
"""
PUBLISH_MODEL = """
import sys
from diffusers_twinflow.hub import push_twinflow_model, save_model_card
save_model_card(sys.argv[1], sys.argv[2])
push_twinflow_model(sys.argv[1], sys.argv[2])
"""
STOCK_MODEL = """
import sys
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], text_encoder_3=None, tokenizer_3=None)
print(type(pipe).__name__, type(pipe.scheduler).__name__)
"""
PUSH_PIPELINE = """
import sys
from diffusers import StableDiffusion3Pipeline
from diffusers_twinflow import load_twinflow_lora
pipe = StableDiffusion3Pipeline.from_pretrained(sys.argv[1], text_encoder_3=None, tokenizer_3=None)
load_twinflow_lora(pipe, sys.argv[2])
pipe.push_to_hub("me/from-pipeline")
pipe.save_pretrained(sys.argv[3], push_to_hub=True, repo_id="me/from-saving")
"""
WHO = """
import sys
from diffusers_twinflow.hub import whole_repo_id
from diffusers_twinflow import TwinFlowConfigError
try:
    print(whole_repo_id(sys.argv[1]))
except TwinFlowConfigError as error:
    print("error:", error)
"""
BASE_INDEX = """
import sys
from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.training.base_model import load_model_index
try:
    print(load_model_index(sys.argv[1]))
except TwinFlowConfigError as error:
    print("error:", error)
"""
LICENSE = """
import sys
from diffusers_twinflow.hub import save_model_card
print(save_model_card(sys.argv[1], "me/x", **eval(sys.argv[2])).data.to_dict())
"""
UPLOAD = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo(sys.argv[2], exist_ok=True); HfApi().upload_folder(repo_id=sys.argv[2], folder_path=sys.argv[1])
"""


def push(hub, directory, repo_id=REPO, token="hf_writer", **options):
    return hub.run(PUSH, directory, repo_id, options, token=token)


def pull(hub, repo_id=REPO, *, login="hf_writer", home=None, variables=None, **options):
    return hub.run(PULL, repo_id, options, token=login, home=home, **(variables or {})).stdout.splitlines()


@pytest.fixture(scope="module")
def pushed(hub, shared_repository):
    result = push(hub, shared_repository)
    assert result.returncode == 0, result.stderr
    return hub


def lora_hex(directory):
    return (directory / LORA_NAME).read_bytes().hex()


def test_push_is_one_commit_of_exactly_the_layout(hub, shared_repository, tmp_path):
    directory = shutil.copytree(shared_repository, tmp_path / "run")
    (directory / "checkpoint-5").mkdir()
    (directory / "checkpoint-5" / "optimizer.bin").write_bytes(b"x")
    (directory / "logs.txt").write_text("secret")
    (directory / "samples").mkdir()
    (directory / "samples" / "grid.png").write_bytes(b"\x89PNG\r\n")
    result = push(hub, directory, "me/one-commit")
    assert result.returncode == 0, result.stderr
    assert [title for _, title in hub.history("me/one-commit")] == ["initial commit", "TwinFlow LoRA for 2 step(s)"]
    tree = {entry["path"] for entry in hub.ask("/api/models/me/one-commit/tree/main")}
    assert tree == FILES | {"samples/grid.png"}
    assert "hf_writer" not in result.stdout + result.stderr
    assert push(hub, directory, "me/one-commit").returncode == 0
    assert len(hub.history("me/one-commit")) == 2


def test_card_and_push_of_a_private_repository(hub, shared_repository, tmp_path):
    directory = shutil.copytree(shared_repository, tmp_path / "run")
    result = hub.run(PUBLISH, directory, "me/published", token=None)
    assert result.returncode == 0, result.stderr
    assert "hf_writer" not in result.stdout + result.stderr
    assert [title for _, title in hub.history("me/published")] == ["initial commit", "TwinFlow LoRA for 2 step(s)"]
    assert "private or gated" in pull(hub, "me/published", login=None, home=tmp_path)[0]
    assert pull(hub, "me/published", home=tmp_path)[0] == "2"
    assert "me/tiny-sd3" in (directory / CARD_NAME).read_text()
    assert not any("hf_writer" in path.read_text() for path in (directory / CARD_NAME, directory / CONFIG_NAME))


def test_pull_then_from_the_cache_then_offline(pushed, shared_repository, tmp_path):
    steps, files, content = pull(pushed, home=tmp_path)
    assert (
        steps == "2" and set(json.loads(files.replace("'", '"'))) == FILES and content == lora_hex(shared_repository)
    )
    before = len(pushed.log())
    assert pull(pushed, home=tmp_path)[2] == content
    again = pushed.log()[before:]
    assert again and not any("/lfs/" in line or line.startswith("GET /me/") for line in again)
    assert pull(pushed, home=tmp_path, local_files_only=True)[2] == content
    assert pull(pushed, home=tmp_path, variables={"HF_HUB_OFFLINE": "1"})[2] == content
    assert len(pushed.log()) == before + len(again)


def test_offline_without_a_cache_is_named(pushed, tmp_path):
    (line,) = pull(pushed, home=tmp_path, local_files_only=True)
    assert line.startswith("error:") and "could not be downloaded" in line


@pytest.mark.slow
def test_the_pipeline_pulls_adapter_and_base(pushed, base_dir, tmp_path):
    uploaded = pushed.run(UPLOAD, base_dir, "me/tiny-sd3")
    assert uploaded.returncode == 0, uploaded.stderr
    result = pushed.run(PIPELINE, REPO, {}, home=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("StableDiffusion3Pipeline TwinFlowScheduler")
    offline = pushed.run_anew("-c", PIPELINE, REPO, {}, home=tmp_path, HF_HUB_OFFLINE="1")
    assert offline.stdout == result.stdout, offline.stderr

    stock = pushed.run_anew("-c", STOCK, REPO, home=tmp_path)
    assert stock.stdout.strip() == "[1.0] SD3Transformer2DModel False", stock.stderr
    beside = pushed.run(BESIDE, REPO, home=tmp_path)
    assert beside.stdout.strip() == "['fast'] TwinFlowScheduler", beside.stderr


def test_private_without_a_token(hub, shared_repository, tmp_path):
    assert push(hub, shared_repository, "me/private", private=True).returncode == 0
    for token in (None, "hf_reader"):
        (line,) = pull(hub, "me/private", login=token, home=tmp_path)
        assert "private or gated" in line and "hf_reader" not in line
    assert pull(hub, "me/private", login=None, home=tmp_path, token="hf_writer")[0] == "2"


def test_a_subfolder(hub, shared_repository, tmp_path):
    shutil.copytree(shared_repository, tmp_path / "all" / "fast")
    uploaded = hub.run(UPLOAD, tmp_path / "all", "me/nested")
    assert uploaded.returncode == 0, uploaded.stderr
    assert pull(hub, "me/nested", home=tmp_path, subfolder="fast")[2] == lora_hex(shared_repository)
    assert "Pass subfolder='fast'" in pull(hub, "me/nested", home=tmp_path)[0]


def test_a_whole_model(hub, shared_model, base_dir, tmp_path):
    directory = shutil.copytree(shared_model, tmp_path / "whole")
    (directory / "checkpoint-5").mkdir()
    (directory / "checkpoint-5" / "model.safetensors").write_bytes(b"x")
    (directory / "transformer" / "optimizer.bin").write_bytes(b"x")
    hub.run(PUBLISH_MODEL, directory, "me/whole").check()
    assert [title for _, title in hub.history("me/whole")] == ["initial commit", "TwinFlow model for 2 step(s)"]
    tree = hub.tree("me/whole")
    assert {CONFIG_NAME, "model_index.json", CARD_NAME, SCHEDULER_NAME, "vae/config.json"} <= tree
    assert not [name for name in tree if name.startswith("checkpoint") or name.endswith(".bin")]
    card = ModelCard((directory / CARD_NAME).read_text()).data
    assert card.base_model == "me/tiny-sd3" and card.to_dict()["base_model_relation"] == "finetune"
    assert card.tags == ["twinflow", "diffusers", "stable-diffusion-3", "text-to-image"]

    before = len(hub.log())
    result = hub.run(PIPELINE, "me/whole", {}, home=tmp_path).check()
    assert result.stdout.startswith("StableDiffusion3Pipeline TwinFlowScheduler")
    assert result.stdout == hub.run(PIPELINE, directory, {}, home=tmp_path).stdout
    assert not [line for line in hub.log()[before:] if "optimizer" in line]
    again = hub.run(PIPELINE, "me/whole", {"local_files_only": True}, home=tmp_path)
    assert again.stdout == result.stdout, again.stderr
    loaded = hub.run(STOCK_MODEL, "me/whole", home=tmp_path)
    assert loaded.stdout.strip() == "StableDiffusion3Pipeline FlowMatchEulerDiscreteScheduler", loaded.stderr


@pytest.mark.slow
def test_a_pipeline_pushes_itself_as_a_whole_model(hub, shared_repository, base_dir, tmp_path):
    hub.run(PUSH_PIPELINE, base_dir, shared_repository, tmp_path / "saved").check()
    images = set()
    for name in ("me/from-pipeline", "me/from-saving"):
        assert {CONFIG_NAME, f"transformer/{CONDITIONING_NAME}"} <= hub.tree(name)
        ours = hub.run(PIPELINE, name, "{}", home=tmp_path / "home").check()
        images.add(ours.stdout.splitlines()[-1])
        stock = hub.run_anew("-c", STOCK_MODEL, name, home=tmp_path / "home").check()
        assert stock.stdout.strip() == "StableDiffusion3Pipeline FlowMatchEulerDiscreteScheduler"
    [line] = images
    assert line.startswith("StableDiffusion3Pipeline TwinFlowScheduler")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "transformer" / WEIGHTS).unlink(), "no safetensors weights"),
        (lambda d: (d / "vae" / WEIGHTS).write_bytes(b"x"), "size of its header is not valid"),
        (lambda d: (d / SCHEDULER_NAME).unlink(), f"lacks {SCHEDULER_NAME}"),
        (lambda d: change_config(d, base_model="../base"), "exists only on this machine"),
        (lambda d: fill_with_nan(d / "transformer" / WEIGHTS), "not finite"),
    ],
)
def test_a_whole_model_that_is_refused_before_anything_is_sent(shared_model, tmp_path, spoil, message):
    directory = shutil.copytree(shared_model, tmp_path / "whole")
    spoil(directory)
    with pytest.raises(TwinFlowConfigError, match=message):
        push_twinflow_model(directory, REPO)


def test_a_lora_is_pushed_by_its_own_name(shared_model):
    with pytest.raises(TwinFlowConfigError, match="push_twinflow_model"):
        push_twinflow_lora(shared_model, REPO)


def fill_with_nan(path):
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(path).items()}, path)


def test_a_gated_base_and_a_broken_connection_are_named(hub, tmp_path):
    folder, home = tmp_path / "base", tmp_path / "home"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    hub.run(UPLOAD, folder, "me/gated").check()
    hub.fault("/me/gated/resolve/", status=403, code="GatedRepo", times=99)
    for line in (
        pull(hub, "me/gated", home=home, patterns=["*"])[0],
        hub.run(BASE_INDEX, "me/gated", home=home).stdout,
    ):
        assert "accept its terms at https://huggingface.co/me/gated" in line and "`hf auth login`" in line
        assert "is not a diffusers pipeline" not in line
    hub.take_back_faults()
    hub.fault(" /", reset=True, times=99)
    line = hub.run(BASE_INDEX, "me/gated", home=home).stdout
    assert "check the connection" in line and "is not a diffusers pipeline" not in line
    hub.take_back_faults()
    assert hub.run(BASE_INDEX, "me/gated", home=home).stdout == "{}\n"


def test_missing_repository_and_revision(pushed, tmp_path):
    assert "is not on the Hub" in pull(pushed, "me/nothing", home=tmp_path)[0]
    assert "no revision 'v9'" in pull(pushed, revision="v9", home=tmp_path)[0]


def test_revision_is_a_branch_of_its_own(pushed, shared_repository, tmp_path):
    push(pushed, shared_repository, "me/branches")
    directory = shutil.copytree(shared_repository, tmp_path / "new")
    values = json.loads((directory / CONFIG_NAME).read_text())
    (directory / CONFIG_NAME).write_text(json.dumps(values | {"num_inference_steps": 4}))
    result = push(pushed, directory, "me/branches", revision="v2")
    assert result.returncode == 0, result.stderr
    assert pull(pushed, "me/branches", home=tmp_path)[0] == "2"
    assert pull(pushed, "me/branches", home=tmp_path, revision="v2")[0] == "4"


@pytest.mark.parametrize("status", [500, 403, 409])
def test_a_push_that_dies_before_the_commit_shows_nothing(hub, shared_repository, status):
    repo_id = f"me/dies-{status}"
    hub.fault(f"POST /api/models/{repo_id}/commit", status=status)
    result = push(hub, shared_repository, repo_id)
    assert result.returncode != 0 and "hf_writer" not in result.stdout + result.stderr
    assert any("PUT /lfs/" in line for line in hub.log())
    assert hub.ask(f"/api/models/{repo_id}/tree/main") == []
    assert push(hub, shared_repository, repo_id).returncode == 0
    assert {entry["path"] for entry in hub.ask(f"/api/models/{repo_id}/tree/main")} == FILES


def test_the_owner_of_a_bare_name_is_asked_of_the_hub(hub, tmp_path):
    def ask(name, token):
        return hub.run(WHO, name, token=token, home=tmp_path).stdout.strip()

    assert ask("my-lora", "hf_writer") == "me/my-lora"
    assert ask("our-org/ours", "hf_writer") == "our-org/ours"
    assert ask("scoped", "hf_scoped") == "me/scoped"
    for name, token, message in (
        ("mine", "hf_my_reader", "can only read"),
        ("you/theirs", "hf_writer", "'you' is neither 'me'"),
        ("their-org/theirs", "hf_writer", "only read in the organization"),
        ("other", "hf_scoped", "fine-grained token"),
    ):
        refused = ask(name, token)
        assert message in refused and "would refuse the push" in refused and token not in refused
    for token in (None, "hf_unknown"):
        refused = ask("my-lora", token)
        assert refused.startswith("error: you are not logged in to push") and "hf_unknown" not in refused
    assert "is not a Hub id" in ask("a b", "hf_writer")
    hub.fault("GET /api/whoami-v2", status=500, times=9)
    assert ask("my-lora", "hf_writer").startswith("error: you are not logged in to push")


def test_the_license_of_a_base_on_the_hub(hub, shared_repository, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: tiny-license\n---\n# base\n")
    hub.run(UPLOAD, base, "me/licensed").check()
    directory = shutil.copytree(shared_repository, tmp_path / "run")
    data = eval(hub.run(LICENSE, directory, {"base_model": "me/licensed"}, home=tmp_path).check().stdout)
    assert (data["license"], data["license_name"], data["base_model"]) == ("other", "tiny-license", "me/licensed")
    offline = hub.run(LICENSE, directory, {"base_model": "me/licensed"}, home=tmp_path, HF_HUB_OFFLINE="1").check()
    assert eval(offline.stdout) == data
    nowhere = eval(hub.run(LICENSE, directory, {"base_model": "me/unlicensed"}, home=tmp_path).check().stdout)
    assert "license" not in nowhere and nowhere["base_model_relation"] == "adapter"
    hub.fault("GET /me/licensed/resolve/", reset=True, times=9)
    broken = hub.run(LICENSE, directory, {"base_model": "me/licensed"}, home=tmp_path / "new").check()
    assert "license" not in eval(broken.stdout)


def test_the_base_is_pulled_in_the_revision_that_was_trained_on(hub, shared_repository, base_dir, tmp_path):
    hub.run(UPLOAD, base_dir, "me/moving").check()
    trained_on = hub.history("me/moving")[-1][0]
    changed = shutil.copytree(base_dir, tmp_path / "changed")
    fill_with_nan(changed / "vae" / WEIGHTS)
    hub.run(UPLOAD, changed, "me/moving").check()
    pictures = {}
    for revision in (trained_on, None):
        directory = shutil.copytree(shared_repository, tmp_path / f"run-{revision}")
        change_config(directory, base_model="me/moving", base_model_revision=revision)
        pictures[revision] = hub.run(PIPELINE, directory, {}, home=tmp_path).check().stdout.split()[-1]
    assert pictures[None] == "nan" and pictures[trained_on] != "nan"


def test_an_upload_that_is_throttled_goes_on(hub, shared_repository):
    hub.fault("POST /me/throttled.git/info/lfs", status=429)
    assert push(hub, shared_repository, "me/throttled").returncode == 0


def test_a_token_that_cannot_write(hub, shared_repository):
    result = push(hub, shared_repository, "me/refused", token="hf_reader")
    assert result.returncode != 0 and "403" in result.stderr and hub.history("me/refused") == []
    assert "hf_reader" not in result.stderr


FAILURES = {
    "storage 403": ("PUT /lfs/", {"status": 403}, "may not write there"),
    "storage 413": ("PUT /lfs/", {"status": 413}, "larger than"),
    "storage 500": ("PUT /lfs/", {"status": 500, "times": 99}, "the Hub has a problem"),
    "batch 403": (".git/info/lfs", {"status": 403}, "may not write there"),
    "batch HTML": (".git/info/lfs", {"html": True}, "did not come from the Hub"),
    "commit reset": ("/commit/main", {"reset": True, "times": 9}, "the connection broke"),
    "commit HTML": ("/commit/main", {"html": True}, "did not come from the Hub"),
    "create HTML": ("/api/repos/create", {"html": True}, "did not come from the Hub"),
}
NO_WAITING = "import time; time.sleep = lambda seconds: None\n"
PUSH_AND_TELL = """
import sys
from diffusers_twinflow import TwinFlowConfigError, push_twinflow_lora
try:
    push_twinflow_lora(sys.argv[1], sys.argv[2], base_model="me/tiny-sd3", **eval(sys.argv[3]))
except TwinFlowConfigError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.parametrize("failure", FAILURES)
def test_a_push_that_fails_is_one_error_with_the_command_for_later(hub, shared_repository, tmp_path, failure):
    match, fault, message = FAILURES[failure]
    repo_id = "me/fails-" + failure.replace(" ", "-")
    directory = shutil.copytree(shared_repository, tmp_path / "a run")
    change_config(directory, trained={"note": failure})
    with (directory / LORA_NAME).open("r+b") as file:  # what is on the Hub already is not uploaded again
        file.seek(-1, 2)
        file.write(bytes([len(failure)]))
    hub.fault(match, **fault)
    failed = hub.run(NO_WAITING + PUSH_AND_TELL, directory, repo_id, {"private": True})
    hub.take_back_faults()
    assert failed.returncode == 3 and "Traceback" not in failed.stderr, failed.stderr
    assert message in failed.stdout and "hf_writer" not in failed.stdout
    command = f"diffusers-twinflow push '{directory}' {repo_id} --base_model me/tiny-sd3 --private"
    assert f"Push them later with `{command}`" in failed.stdout
    is_there = bool(hub.history(repo_id))
    assert ("is on the Hub without files" in failed.stdout) == is_there


def test_two_pushes_at_once_both_arrive_whole(hub, shared_repository, tmp_path):
    other = shutil.copytree(shared_repository, tmp_path / "other")
    values = json.loads((other / CONFIG_NAME).read_text())
    (other / CONFIG_NAME).write_text(json.dumps(values | {"num_inference_steps": 4}))
    started = {d: hub.start(PUSH, d, "me/at-once", {}) for d in (shared_repository, other)}
    results = {d: wait().check() for d, wait in started.items()}
    assert len(hub.history("me/at-once")) == 3
    last = next(d for d, r in results.items() if r.stdout.strip() == hub.history("me/at-once")[-1][0])
    steps = json.loads((last / CONFIG_NAME).read_text())["num_inference_steps"]
    assert pull(hub, "me/at-once", home=tmp_path)[0] == str(steps)


SMALL_CHUNKS = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 256\n"


@pytest.fixture
def lora_request(shared_repository):
    return f"GET /lfs/{hashlib.sha256((shared_repository / LORA_NAME).read_bytes()).hexdigest()}"


def test_a_broken_download_is_resumed(pushed, shared_repository, lora_request, tmp_path):
    before = len(pushed.log())
    pushed.fault(lora_request, cut_after=1000)
    pulled = pushed.run(SMALL_CHUNKS + PULL, REPO, {}, home=tmp_path).check()
    assert pulled.stdout.splitlines()[2] == lora_hex(shared_repository)
    requests = [line.removeprefix(lora_request) for line in pushed.log()[before:] if lora_request in line]
    assert requests == ["", " bytes=768-"]


def test_a_file_that_shrinks_during_a_broken_download_is_named(pushed, shared_repository, lora_request, tmp_path):
    pushed.fault(lora_request, cut_after=1000)
    pushed.fault(lora_request, shrink_to=500)
    refused = pushed.run(SMALL_CHUNKS + PULL, REPO, {}, home=tmp_path)
    assert refused.stdout.startswith("error:") and "416" in refused.stdout, refused.stderr
    assert "could not be downloaded" in refused.stdout
    assert pull(pushed, home=tmp_path)[2] == lora_hex(shared_repository)


FULL_DISK = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
FULL_DISK += "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))\n"


def test_a_full_disk_is_named_and_the_next_pull_is_whole(pushed, shared_repository, tmp_path):
    result = pushed.run(FULL_DISK + PULL, REPO, {}, home=tmp_path)
    assert result.stdout.startswith("error:") and "could not be downloaded" in result.stdout, result.stderr
    assert pull(pushed, home=tmp_path)[2] == lora_hex(shared_repository)


def change_config(directory, **values):
    path = directory / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def link_away(path):
    outside = path.parent.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def test_an_image_outside_the_folder_is_not_pushed(shared_repository, tmp_path):
    directory = shutil.copytree(shared_repository, tmp_path / "run")
    (directory / "samples").mkdir()
    (directory / "samples" / "a.png").write_bytes(b"mine")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (directory / "samples" / "b.png").symlink_to(tmp_path / "secret.png")
    (directory / "samples" / "c.png").symlink_to("a.png")
    _, files = check_pushable(directory, base_model="me/base")
    assert {name for name in files if name.startswith("samples")} == {"samples/a.png", "samples/c.png"}
    assert "b.png" not in str(save_model_card(directory, "me/x"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / LORA_NAME).unlink(), f"lacks {LORA_NAME}"),
        (lambda d: (d / SCHEDULER_NAME).unlink(), f"lacks {SCHEDULER_NAME}"),
        (lambda d: (d / LORA_NAME).write_bytes(b"x"), "size of its header is not valid"),
        (lambda d: (d / CONFIG_NAME).unlink(), f"no {CONFIG_NAME}"),
        (lambda d: (d / CONDITIONING_NAME).unlink(), f"lacks {CONDITIONING_NAME}"),
        (lambda d: link_away(d / CONDITIONING_NAME), "a link to a place outside"),
        (lambda d: change_config(d, train_type="full"), "has no model_index.json"),
        (lambda d: change_config(d, trained={"note": "hf_" + "a" * 34}), "Hub token"),
        (lambda d: (d / CARD_NAME).write_text("---\nlicense: [\n---\n"), "metadata that is not valid"),
        (lambda d: None, "exists only on this machine.*base_model="),
        (lambda d: change_config(d, base_model="../base"), "exists only on this machine"),
    ],
)
def test_what_is_refused_before_anything_is_sent(shared_repository, tmp_path, spoil, message):
    directory = shutil.copytree(shared_repository, tmp_path / "run")
    spoil(directory)
    base = "me/base" if "only on this machine" not in message else None
    with pytest.raises(TwinFlowConfigError, match=message):
        push_twinflow_lora(directory, REPO, base_model=base)


def test_a_token_among_the_arguments_is_not_written(shared_repository, tmp_path):
    config = TwinFlowRepositoryConfig.load(shared_repository)
    config.trained["arguments"] = {"hub_token": "hf_secret", "rank": 2}
    config.save(tmp_path)
    assert "hf_secret" not in (tmp_path / CONFIG_NAME).read_text()
    assert TwinFlowRepositoryConfig.load(tmp_path).trained["arguments"] == {"rank": 2}
