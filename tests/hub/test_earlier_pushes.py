"""A push replaces the one before it: its commit deletes what that one wrote and the folder no longer has."""

import shutil

from diffusers_twinflow.hub.files import CARD_NAME, CONDITIONING_NAME, CONFIG_NAME, LORA_NAME, SCHEDULER_NAME

PUSH = """
import sys
from diffusers_twinflow.hub import push_twinflow_model
push_twinflow_model(sys.argv[1], sys.argv[2], base_model="me/tiny-sd3", **eval(sys.argv[3]))
"""
UPLOAD = """
import sys
from huggingface_hub import HfApi
for name in sys.argv[2:]:
    HfApi().upload_file(path_or_fileobj=b"own", path_in_repo=name, repo_id=sys.argv[1])
"""
PUSH_BESIDE_ANOTHER = """
import sys
from huggingface_hub import HfApi
from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.hub import push_twinflow_model
look = HfApi.model_info
def look_and_change(self, repo_id, **options):
    found = look(self, repo_id, **options)
    self.upload_file(path_or_fileobj=b"own", path_in_repo="own.txt", repo_id=repo_id)
    return found
HfApi.model_info = look_and_change
try:
    push_twinflow_model(sys.argv[1], sys.argv[2], base_model="me/tiny-sd3")
except TwinFlowConfigError as error:
    print(error)
"""
LORA_FILES = {CONFIG_NAME, LORA_NAME, CONDITIONING_NAME, SCHEDULER_NAME}
OWN = {"own.txt", "samples/own.png", "transformer/own.safetensors"}


def folder_of(source, directory, *samples, card=True):
    """A copy of a repository with sample images and a model card."""
    shutil.copytree(source, directory)
    (directory / "samples").mkdir()
    for name in samples:
        (directory / "samples" / name).write_bytes(b"\x89PNG\r\n" + name.encode())
    if card:
        (directory / CARD_NAME).write_text("---\nlicense: mit\n---\n# me/model\n")
    return directory


def push(hub, directory, repo_id, **options):
    hub.run(PUSH, directory, repo_id, options).check()
    return hub.tree(repo_id)


def test_images_of_an_earlier_card_are_deleted_in_the_same_commit(hub, shared_repository, tmp_path):
    repo_id = "me/fewer-images"
    first = folder_of(shared_repository, tmp_path / "first", "steps.png", "prompt-1.png", "prompt-2.png")
    assert push(hub, first, repo_id) == LORA_FILES | {
        CARD_NAME,
        "samples/steps.png",
        "samples/prompt-1.png",
        "samples/prompt-2.png",
    }
    hub.run(UPLOAD, repo_id, *OWN).check()
    commits = len(hub.history(repo_id))
    second = folder_of(shared_repository, tmp_path / "second", "prompt-1.png")
    assert push(hub, second, repo_id) == LORA_FILES | OWN | {CARD_NAME, "samples/prompt-1.png"}
    assert len(hub.history(repo_id)) == commits + 1


def test_files_of_another_format_are_deleted(hub, shared_repository, shared_model, tmp_path):
    """With a file of the old layout beside it, diffusers could load the old weights."""
    repo_id = "me/two-formats"
    assert push(hub, shared_repository, repo_id) == LORA_FILES
    model = folder_of(shared_model, tmp_path / "model", card=False)
    whole = push(hub, model, repo_id)
    assert {"model_index.json", "transformer/config.json"} <= whole
    assert not whole & {LORA_NAME, CONDITIONING_NAME}
    assert push(hub, shared_repository, repo_id) == LORA_FILES


def test_a_card_stays_with_its_images_until_there_is_a_new_one(hub, shared_repository, tmp_path):
    repo_id = "me/kept-card"
    with_card = folder_of(shared_repository, tmp_path / "first", "steps.png")
    push(hub, with_card, repo_id)
    assert push(hub, shared_repository, repo_id) == LORA_FILES | {CARD_NAME, "samples/steps.png"}
    new = folder_of(shared_repository, tmp_path / "second", "prompt-1.png")
    assert push(hub, new, repo_id) == LORA_FILES | {CARD_NAME, "samples/prompt-1.png"}


def test_each_branch_has_its_own_last_push(hub, shared_repository, tmp_path):
    repo_id = "me/branches-with-images"
    images = folder_of(shared_repository, tmp_path / "first", "steps.png")
    push(hub, images, repo_id, revision="v2")
    assert push(hub, images, repo_id) == LORA_FILES | {CARD_NAME, "samples/steps.png"}
    without = folder_of(shared_repository, tmp_path / "second")
    push(hub, without, repo_id, revision="v2")
    branch = {entry["path"] for entry in hub.ask(f"/api/models/{repo_id}/tree/v2")}
    assert branch == LORA_FILES | {CARD_NAME} and "samples/steps.png" in hub.tree(repo_id)


def test_a_configuration_that_somebody_wrote_deletes_nothing(hub, shared_repository, tmp_path):
    repo_id = "me/written-by-hand"
    push(hub, folder_of(shared_repository, tmp_path / "first", "steps.png"), repo_id)
    hub.run(UPLOAD, repo_id, CONFIG_NAME).check()
    second = folder_of(shared_repository, tmp_path / "second")
    assert push(hub, second, repo_id) == LORA_FILES | {CARD_NAME, "samples/steps.png"}


def test_a_push_that_meets_another_change_deletes_nothing(hub, shared_repository, tmp_path):
    repo_id = "me/changed-meanwhile"
    before = push(hub, folder_of(shared_repository, tmp_path / "first", "steps.png"), repo_id)
    second = folder_of(shared_repository, tmp_path / "second")
    told = hub.run(PUSH_BESIDE_ANOTHER, second, repo_id).check().stdout
    assert "the repository was changed at the same time: push again" in told
    assert hub.tree(repo_id) == before | {"own.txt"}
    assert push(hub, second, repo_id) == LORA_FILES | {CARD_NAME, "own.txt"}
