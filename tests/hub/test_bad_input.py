"""Each fault of an untrusted repository is one clear error, and the pipeline does not change."""

import copy
import json
import pickle
import shutil
import struct

import pytest
import torch
from diffusers import SD3Transformer2DModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusers_twinflow import TwinFlowConfigError, TwinFlowPipeline, load_twinflow_lora, unload_twinflow_lora
from diffusers_twinflow.hub.files import CONDITIONING_NAME, CONFIG_NAME, LORA_NAME, SCHEDULER_NAME, locate_repository
from diffusers_twinflow.hub.repository import TwinFlowRepositoryConfig
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from tests.hub.repositories import FAMILY


@pytest.fixture(scope="module")
def loaded_pipeline(base_dir):
    return load_stock_pipeline(FAMILY, base_dir)


@pytest.fixture
def pipeline(loaded_pipeline):
    """A copy, which takes a quarter of the time to load the base."""
    return copy.deepcopy(loaded_pipeline)


FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def change_json(name, **values):
    def change(directory):
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def write(name, content):
    def change(directory):
        (directory / name).write_bytes(content)

    return change


def change_lora(change_tensors=lambda tensors: None, **metadata_changes):
    def change(directory):
        path = directory / LORA_NAME
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            metadata = json.loads(file.metadata()["lora_adapter_metadata"])
        change_tensors(tensors)
        metadata |= {f"transformer.{name}": value for name, value in metadata_changes.items()}
        save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(metadata)})

    return change


def first(tensors, ending):
    return next(name for name in sorted(tensors) if name.endswith(ending))


def other_rank(tensors):
    for name in tensors:
        tensors[name] = torch.zeros(8, tensors[name].shape[1]) if "lora_A" in name else tensors[name].repeat(1, 4)


def other_width(tensors):
    name = first(tensors, "lora_A.weight")
    tensors[name] = torch.zeros(2, tensors[name].shape[1] * 2)


def other_family(tensors):
    renamed = {name.replace("transformer.", "unet."): tensor for name, tensor in tensors.items()}
    tensors.clear()
    tensors.update(renamed)


def more_layers(tensors):
    for half in ("lora_A", "lora_B"):
        name = first(tensors, f"attn.to_q.{half}.weight")
        tensors[name.replace("transformer_blocks.0", "transformer_blocks.9")] = tensors[name].clone()


def poison(tensors):
    tensors[first(tensors, "lora_B.weight")][0, 0] = float("nan")


def overflow(tensors):
    tensors[first(tensors, "lora_B.weight")][0, 0] = float("inf")


def integers(tensors):
    tensors[first(tensors, "lora_B.weight")] = tensors[first(tensors, "lora_B.weight")].long()


def lie_about_sizes(directory):
    content = (directory / LORA_NAME).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    name = first(header, "lora_A.weight")
    header[name]["shape"] = [1 << 40, 1 << 20]
    text = json.dumps(header).encode()
    (directory / LORA_NAME).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def drop_metadata(directory):
    save_file(load_file(directory / LORA_NAME), directory / LORA_NAME)


def link_away(directory):
    (directory / CONDITIONING_NAME).rename(directory.parent / "outside")
    (directory / CONDITIONING_NAME).symlink_to(directory.parent / "outside")


class Trap:
    def __reduce__(self):
        return open, ("pickle-was-loaded", "w")


def pickled(directory):
    (directory / LORA_NAME).unlink()
    with (directory / "pytorch_lora_weights.bin").open("wb") as file:
        pickle.dump(Trap(), file)


FAULTS = {
    "config of 100 MB": (lambda d: write(CONFIG_NAME, b" " * 100_000_000)(d), "at most 1000000"),
    "config cut short": (write(CONFIG_NAME, b'{"train_type": "lo'), "not valid JSON"),
    "config of another encoding": (write(CONFIG_NAME, b"\xff\xfe\x00"), "not valid JSON"),
    "config nested deeply": (write(CONFIG_NAME, b"[" * 400_000), "not valid JSON"),
    "config with NaN": (write(CONFIG_NAME, b'{"guidance_scale": NaN}'), "not valid JSON"),
    "config that is a list": (write(CONFIG_NAME, b"[]"), "contains a list"),
    "config without fields": (write(CONFIG_NAME, b"{}"), "not complete"),
    "family of another type": (change_json(CONFIG_NAME, family=["stable_diffusion_3"]), "this version supports"),
    "steps as text": (change_json(CONFIG_NAME, num_inference_steps="2"), "num_inference_steps"),
    "no steps": (change_json(CONFIG_NAME, num_inference_steps=0), "num_inference_steps"),
    "steps as truth": (change_json(CONFIG_NAME, num_inference_steps=True), "num_inference_steps"),
    "guidance": (change_json(CONFIG_NAME, guidance_scale=4.5), "guidance_scale"),
    "a billion tokens": (change_json(CONFIG_NAME, max_sequence_length=10**9), "max_sequence_length"),
    "a second denoiser that the family has not": (
        change_json(CONFIG_NAME, denoisers=["transformer", "transformer_2"]),
        "denoisers",
    ),
    "base as number": (change_json(CONFIG_NAME, base_model=3), "base_model"),
    "base with a zero byte": (change_json(CONFIG_NAME, base_model="a\0b"), "base_model"),
    "options as list": (change_json(CONFIG_NAME, options=[1]), "options"),
    "pickle": (pickled, "no pytorch_lora_weights"),
    "empty LoRA": (write(LORA_NAME, b""), "size of its header is not valid"),
    "LoRA of noise": (write(LORA_NAME, bytes(range(256)) * 40), "size of its header is not valid"),
    "header longer than the file": (
        write(LORA_NAME, struct.pack("<Q", 10**7) + b"{}"),
        "size of its header is not valid",
    ),
    "header that lies": (lie_about_sizes, "not a valid safetensors"),
    "no metadata": (drop_metadata, "alpha is unknown"),
    "other rank": (change_lora(other_rank), "its rank is wrong"),
    "metadata of a huge rank": (change_lora(r=10**9), "its rank is wrong"),
    "metadata with huge rank pattern": (change_lora(rank_pattern={"attn.to_q": 10**9}), "its rank is wrong"),
    "rank as text": (change_lora(r="2"), "r='2'"),
    "other width": (change_lora(other_width), "another size"),
    "other family": (change_lora(other_family), "not a LoRA weight of a transformer"),
    "more layers": (change_lora(more_layers), "another model"),
    "targets as expression": (change_lora(target_modules="(a+)+b"), "target_modules"),
    "pattern as expression": (change_lora(alpha_pattern={"(a+)+b": 1.0}), "alpha_pattern"),
    "init that changes the base": (change_lora(init_lora_weights="pissa"), "init_lora_weights"),
    "code to import": (change_lora(megatron_config={}, megatron_core="os"), "megatron"),
    "pattern of unused keys": (
        change_lora(alpha_pattern={f"layer_{i}": 1.0 for i in range(400)}),
        "alpha_pattern with 400 keys that no module uses",
    ),
    "pattern of 100,000 keys": (change_lora(rank_pattern={f"l{i}": 2 for i in range(100_000)}), "rank_pattern="),
    "pattern that another key hides": (
        change_lora(rank_pattern={"to_q": 2, "attn.to_q": 2}),
        "no module uses, such as 'attn.to_q'",
    ),
    "100,000 targets": (change_lora(target_modules=[f"l{i}" for i in range(100_000)]), "target_modules="),
    "rank that arrives as a float": (change_lora(r=2.0), "r=2.0"),
    "unknown field": (change_lora(sorcery=1), "sorcery"),
    "NaN": (change_lora(poison), "not finite"),
    "infinity": (change_lora(overflow), "not finite"),
    "integers": (change_lora(integers), "I64"),
    "conditioning of noise": (write(CONDITIONING_NAME, b"noise"), "size of its header is not valid"),
    "scheduler of another class": (change_json(SCHEDULER_NAME, _class_name="os.system"), "os.system"),
    "no scheduler": (lambda d: (d / SCHEDULER_NAME).unlink(), f"has no {SCHEDULER_NAME}"),
    "no conditioning": (lambda d: (d / CONDITIONING_NAME).unlink(), f"has no {CONDITIONING_NAME}"),
    "conditioning from outside": (link_away, "a link to a place outside"),
    "steps as a float": (change_json(CONFIG_NAME, num_inference_steps=2.0), "num_inference_steps=.*whole number"),
    "a number beyond floats": (write(CONFIG_NAME, b'{"guidance_scale": 1e999}'), "not valid JSON"),
    "a scheduler of a fraction of a timestep": (
        change_json(SCHEDULER_NAME, num_train_timesteps=999.5),
        "num_train_timesteps=.*a whole number",
    ),
    "a scheduler of timesteps without end": (change_json(SCHEDULER_NAME, num_train_timesteps=10**30), "not usable"),
    "a diffusion scheduler without end": (
        change_json(SCHEDULER_NAME, num_train_timesteps=10**9, prediction_type="epsilon"),
        "not usable",
    ),
    "a switch that is a text": (change_json(SCHEDULER_NAME, invert_sigmas="no"), "invert_sigmas=.*true or false"),
    "scheduler out of range": (change_json(SCHEDULER_NAME, gap_end=7), "not usable"),
    "scheduler of wrong type": (change_json(SCHEDULER_NAME, gap_start="x"), "gap_start='x': it must be a number"),
    "scheduler of 2 MB": (write(SCHEDULER_NAME, b" " * 2_000_000), "at most 1000000"),
}


def assert_untouched(pipeline, scheduler, before):
    assert pipeline.scheduler is scheduler and type(pipeline.transformer) is SD3Transformer2DModel
    after = pipeline.transformer.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(shared_repository, pipeline, tmp_path, fault, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = shutil.copytree(shared_repository, tmp_path / "broken")
    spoil, message = FAULTS[fault]
    spoil(directory)
    scheduler = pipeline.scheduler
    before = {name: tensor.clone() for name, tensor in pipeline.transformer.state_dict().items()}
    with pytest.raises(TwinFlowConfigError, match=message):
        load_twinflow_lora(pipeline, directory)
    assert_untouched(pipeline, scheduler, before)
    assert not (tmp_path / "pickle-was-loaded").exists()


def test_whole_numbers_of_a_scheduler_that_came_as_floats(shared_repository, pipeline, tmp_path):
    directory = shutil.copytree(shared_repository, tmp_path / "floats")
    change_json(SCHEDULER_NAME, num_train_timesteps=1000.0, noise_seed=3.0)(directory)
    load_twinflow_lora(pipeline, directory)
    assert len(pipeline.scheduler) == 1000 and pipeline.scheduler.config.noise_seed == 3


def test_only_a_lora_file_is_named_as_such(shared_repository, pipeline, tmp_path):
    shutil.copy(shared_repository / LORA_NAME, tmp_path / LORA_NAME)
    with pytest.raises(TwinFlowConfigError, match="Load a plain LoRA with load_lora_weights"):
        load_twinflow_lora(pipeline, tmp_path)


@pytest.mark.parametrize("base", ["../../etc", "/etc", "~/secrets", "a/../../b", "C:\\x", "file:///etc"])
def test_a_base_path_counts_only_in_a_directory_of_the_callers_own(shared_repository, tmp_path, base):
    directory = shutil.copytree(shared_repository, tmp_path / "a")
    change_json(CONFIG_NAME, base_model=base)(directory)
    local = locate_repository(directory)
    stranger = type(local)(local.name, local.directory, is_local=False)
    config = TwinFlowRepositoryConfig.load_located(local)
    with pytest.raises(TwinFlowConfigError, match="nor a Hub id"):
        config.locate_base(stranger)


def test_a_base_with_pickles_is_not_loaded(shared_repository, base_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = shutil.copytree(base_dir, tmp_path / "base")
    (base / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with (base / "transformer" / "diffusion_pytorch_model.bin").open("wb") as file:
        pickle.dump(Trap(), file)
    with pytest.raises(TwinFlowConfigError, match="cannot be loaded"):
        TwinFlowPipeline.from_pretrained(shared_repository, base_model=str(base))
    assert not (tmp_path / "pickle-was-loaded").exists()


@pytest.mark.parametrize("subfolder", ["..", "a/../..", "/etc"])
def test_a_subfolder_stays_in_the_repository(pipeline, shared_repository, subfolder):
    with pytest.raises(TwinFlowConfigError, match="is outside the repository"):
        load_twinflow_lora(pipeline, shared_repository, subfolder=subfolder)


def test_a_subfolder_of_a_local_directory(pipeline, shared_repository):
    parent = shared_repository.parent
    assert load_twinflow_lora(pipeline, parent, subfolder=shared_repository.name).num_inference_steps == 2


def test_a_name_that_is_nothing(pipeline):
    with pytest.raises(TwinFlowConfigError, match="neither a directory nor a Hub id"):
        load_twinflow_lora(pipeline, "no/such/directory")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)


class Fuzzed:
    """One pipeline and one repository for all examples; each example must leave both as they were."""

    def __init__(self, pipeline, shared_repository, directory):
        self.pipeline, self.directory = pipeline, shutil.copytree(shared_repository, directory / "fuzzed")
        self.scheduler = pipeline.scheduler
        self.before = {name: tensor.clone() for name, tensor in pipeline.transformer.state_dict().items()}

    def load(self, name, content: bytes):
        path = self.directory / name
        original = path.read_bytes()
        path.write_bytes(content)
        try:
            load_twinflow_lora(self.pipeline, self.directory)
        except TwinFlowConfigError:
            pass
        else:
            unload_twinflow_lora(self.pipeline)
        path.write_bytes(original)
        assert_untouched(self.pipeline, self.scheduler, self.before)


@pytest.fixture
def fuzzed(pipeline, shared_repository, tmp_path):
    return Fuzzed(pipeline, shared_repository, tmp_path)


@pytest.mark.parametrize("name", [CONFIG_NAME, SCHEDULER_NAME])
@given(data=st.data())
@FUZZ
def test_fuzz_json_values(fuzzed, name, data):
    values = json.loads((fuzzed.directory / name).read_text())
    key = data.draw(st.sampled_from(sorted(values)))
    fuzzed.load(name, json.dumps(values | {key: data.draw(JSON)}).encode())


@given(data=st.data())
@FUZZ
def test_fuzz_lora_metadata(fuzzed, data):
    path = fuzzed.directory / LORA_NAME
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    key = data.draw(st.sampled_from(sorted(metadata)))
    tensors = load_file(path)
    changed = fuzzed.directory / "changed.safetensors"
    save_file(tensors, changed, {"lora_adapter_metadata": json.dumps(metadata | {key: data.draw(JSON)})})
    fuzzed.load(LORA_NAME, changed.read_bytes())


@pytest.mark.parametrize("name", [CONFIG_NAME, SCHEDULER_NAME, LORA_NAME, CONDITIONING_NAME])
@given(data=st.data())
@FUZZ
def test_fuzz_bytes(fuzzed, name, data):
    content = bytearray((fuzzed.directory / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content), 20_000) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    fuzzed.load(name, bytes(content))
