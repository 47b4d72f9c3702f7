"""The trainer from Python: its data, its callbacks, and its result."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from diffusers import StableDiffusion3Pipeline

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError, TwinFlowPipeline
from diffusers_twinflow.data.batches import LatentBatches
from diffusers_twinflow.methods import FlowMatching, TwinFlow
from diffusers_twinflow.training import Trainer, TrainerCallback, TrainingArguments
from diffusers_twinflow.training.callbacks import CheckpointCallback, ProgressCallback, default_callbacks
from tests.data.data_files import picture
from tests.host_reads import no_host_reads
from tests.tiny import sd3_condition, sd3_transformer
from tests.training.encoded import BATCH, InOrder, samples

WITHOUT_GUIDANCE = TwinFlowConfig(twinflow_enabled=True, twinflow_enhanced_ratio=0.0)


@pytest.fixture
def arguments(base_dir, tmp_path):
    return TrainingArguments(
        str(base_dir),
        output_dir=str(tmp_path / "out"),
        train_batch_size=BATCH,
        max_train_steps=2,
        checkpointing_steps=1,
        learning_rate=1e-2,
        rank=2,
    )


def trained_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.transformer.named_parameters() if p.requires_grad}


def draw(pipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 1, "guidance_scale": 0.0, "output_type": "pt", "max_sequence_length": 2}
    return pipeline("a picture", height=16, width=16, generator=torch.manual_seed(0), **options).images


def test_a_pipeline_object_is_trained_in_place_and_its_result_loads(base_dir, image_dir, arguments, tmp_path):
    pipeline = StableDiffusion3Pipeline.from_pretrained(base_dir, text_encoder_3=None, tokenizer_3=None)
    options = replace(
        arguments, instance_data_dir=str(image_dir), resolution=16, max_sequence_length=2, checkpointing_steps=9
    )
    given = replace(options)
    trainer = Trainer(pipeline, options, TwinFlow(WITHOUT_GUIDANCE))
    trainer.train()
    assert options == given
    assert trainer.pipeline is pipeline and trainer.transformer is pipeline.transformer
    assert torch.isfinite(draw(TwinFlowPipeline.from_pretrained(tmp_path / "out"))).all()


@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_a_loaded_transformer_is_trained_on_latents_and_conditions(arguments, tmp_path, train_type):
    transformer = sd3_transformer()
    before = transformer.proj_out.weight.clone()
    data = LatentBatches(samples(), seed=0, batch_size=BATCH, empty_condition=sd3_condition(1))
    method = TwinFlow(TwinFlowConfig(twinflow_enabled=True))
    trainer = Trainer(transformer, replace(arguments, train_type=train_type), method, data)
    trainer.train()
    name = "pytorch_lora_weights" if train_type == "lora" else "transformer/diffusion_pytorch_model"
    assert (tmp_path / "out" / f"{name}.safetensors").is_file()
    assert trainer.transformer is transformer
    assert torch.equal(before, transformer.proj_out.weight) == (train_type == "lora")


@pytest.mark.parametrize("data", [samples, InOrder], ids=["samples", "batches"])
def test_plain_latents_and_conditions_are_batched(arguments, data):
    plain, ready = (
        Trainer(sd3_transformer(), replace(arguments, output_dir=f"{arguments.output_dir}-{i}"), FlowMatching(), given)
        for i, given in enumerate([data(), LatentBatches(data(), seed=arguments.seed, batch_size=BATCH)])
    )
    plain.train()
    ready.train()
    first, second = trained_weights(plain), trained_weights(ready)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert any(tensor.any() for name, tensor in first.items() if "lora_B" in name)


def picture_rows() -> Dataset:
    """Eight captioned pictures in columns with names of their own."""
    data = {"photo": [picture(i) for i in range(8)], "words": [f"picture {i}" for i in range(8)]}
    return Dataset.from_dict(data, features=Features({"photo": Image(), "words": Value("string")}))


def picture_options(arguments: TrainingArguments, **changes) -> TrainingArguments:
    columns = {"image_column": "photo", "caption_column": ["words"]}
    return replace(arguments, resolution=16, max_sequence_length=2, checkpointing_steps=9, **columns, **changes)


def test_a_dataset_of_images_trains_as_its_files_do(arguments, tmp_path):
    rows = picture_rows()
    rows.to_parquet(tmp_path / "rows.parquet")
    options = picture_options(arguments)
    given = Trainer(None, options, TwinFlow(WITHOUT_GUIDANCE), rows.with_format("torch"))
    files = {"data_files": [str(tmp_path / "rows.parquet")], "output_dir": str(tmp_path / "files")}
    read = Trainer(None, replace(options, **files), TwinFlow(WITHOUT_GUIDANCE))
    given.train()
    read.train()
    first, second = trained_weights(given), trained_weights(read)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_stream_of_images_is_trained_on(arguments, tmp_path):
    trainer = Trainer(None, picture_options(arguments), FlowMatching(), picture_rows().to_iterable_dataset())
    trainer.train()
    assert trainer.arguments.streaming and (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()


def test_the_log_names_options_that_are_not_used_and_batches_larger_than_the_data(arguments, caplog):
    options = replace(arguments, validation_steps=7, hub_model_id="me/x", train_batch_size=2 * BATCH)
    Trainer(sd3_transformer(), options, FlowMatching(), samples(BATCH)).prepare()
    assert len([record for record in caplog.records if "are not used in training" in record.getMessage()]) == 1
    assert "`validation_steps` (needs `validation_prompts`)" in caplog.text
    assert "`hub_model_id` (needs `push_to_hub`)" in caplog.text
    assert "`train_batch_size` 8 per process" in caplog.text and "only 4" in caplog.text


class Pictures(torch.utils.data.Dataset):
    """Samples as other trainers take them."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"image": torch.zeros(3, 16, 16), "text": "a"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            Pictures(),
            "a dictionary with 'image', 'text', but it must have 'latents' and 'condition'.*datasets.Dataset",
        ),
        ([], "The data has no samples"),
        ([torch.zeros(1)], "a Tensor, but it must have"),
        ({"train": [], "test": []}, "a dict with 'train', 'test': pass one split"),
    ],
)
def test_samples_that_are_not_encoded_are_refused_at_once(arguments, data, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        Trainer(None, arguments, FlowMatching(), data)


def test_batches_that_are_not_encoded_are_refused_when_they_are_read(arguments):
    loader = torch.utils.data.DataLoader(Pictures(), batch_size=BATCH)
    with pytest.raises(TwinFlowConfigError, match="it must have 'latents' and 'condition'"):
        Trainer(None, arguments, FlowMatching(), loader).train()


def test_a_dataset_and_a_source_in_the_options_contradict_each_other(arguments):
    with pytest.raises(TwinFlowConfigError, match="`instance_data_dir` is set, but the data is given"):
        Trainer(None, picture_options(arguments, instance_data_dir="a"), FlowMatching(), picture_rows())


@pytest.mark.parametrize(
    ("method", "message"),
    [(TwinFlow, "method is TwinFlow: pass a method"), (TwinFlowConfig(), "method is TwinFlowConfig: pass a method")],
)
def test_a_method_of_another_kind_is_refused(arguments, method, message):
    with pytest.raises(TypeError, match=message):
        Trainer(None, arguments, method)
    with pytest.raises(TypeError, match="arguments is a dict: pass TrainingArguments"):
        Trainer(None, {"rank": 2})
    with pytest.raises(TypeError, match="model is a Linear: pass a Hub id, a folder, a pipeline"):
        Trainer(torch.nn.Linear(1, 1), arguments)


def test_guidance_on_plain_samples_says_how_to_give_the_empty_prompt(arguments):
    trainer = Trainer(sd3_transformer(), arguments, TwinFlow(TwinFlowConfig(twinflow_enabled=True)), samples())
    with pytest.raises(TwinFlowConfigError, match=r"LatentBatches\(\.\.\., empty_condition"):
        trainer.train()


def test_without_callbacks_only_the_result_is_written(arguments, tmp_path):
    Trainer(sd3_transformer(), arguments, TwinFlow(WITHOUT_GUIDANCE), samples(), callbacks=[]).train()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "pytorch_lora_weights.safetensors" in names
    assert not [name for name in names if name.startswith(("checkpoint", "logs"))]


class LastCheckpoint(CheckpointCallback):
    """Writes one checkpoint, of the last step."""

    def is_due(self, trainer, step):
        return step == trainer.schedule.total_steps


def test_a_callback_is_replaced(arguments, tmp_path):
    callbacks = [
        LastCheckpoint() if isinstance(callback, CheckpointCallback) else callback
        for callback in default_callbacks(arguments)
    ]
    Trainer(sd3_transformer(), arguments, FlowMatching(), samples(), callbacks=callbacks).train()
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-2"]


class Recorder(TrainerCallback):
    """Keeps the names of the calls, and refuses the first step."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.weights: list[torch.Tensor] = []

    def takes_step(self, trainer, grad_norm):
        self.calls.append("takes_step")
        return trainer.step > 0

    def on_step(self, trainer, step):
        self.calls.append(f"on_step {step}")
        self.weights.append(torch.cat([tensor.flatten() for tensor in trained_weights(trainer).values()]))

    def score(self, trainer, step):
        return {"largest": float(self.weights[-1].max())}

    def on_due(self, trainer, step, is_resumed):
        self.calls.append(f"on_due {step}")

    def on_log(self, trainer, step, values):
        self.calls.append(f"on_log {step}")


for name in ("on_prepare", "on_train_begin", "on_step_begin", "on_loss", "before_save", "on_train_end", "on_exit"):
    setattr(Recorder, name, lambda self, trainer, *_, name=name: self.calls.append(name))


def test_an_added_callback_is_called_at_every_point_and_can_refuse_a_step(arguments, tmp_path):
    recorder = Recorder()
    options = replace(arguments, logging_steps=2)
    callbacks = [*default_callbacks(options), recorder]
    trainer = Trainer(sd3_transformer(), options, FlowMatching(), samples(), callbacks=callbacks)
    trainer.train()
    step = ["on_step_begin", "on_loss", "takes_step"]
    expected = ["on_prepare", "on_train_begin", *step, "on_step 1", "on_due 1", *step, "on_step 2", "on_log 2"]
    assert recorder.calls == [*expected, "on_due 2", "before_save", "on_train_end", "on_exit"]
    first, second = recorder.weights
    assert not torch.equal(first, second)
    untouched = Trainer(sd3_transformer(), options, FlowMatching(), samples(), callbacks=[])
    untouched.prepare()
    assert torch.equal(first, torch.cat([tensor.flatten() for tensor in trained_weights(untouched).values()]))
    assert trainer.evaluate() == {"largest": float(second.max())}


class WithoutReads(Trainer):
    def begin_step(self):
        with no_host_reads():
            super().begin_step()

    def train_micro_batch(self, batch):
        with no_host_reads():
            return super().train_micro_batch(batch)


@pytest.mark.parametrize("options", [{}, {"twinflow_adversarial_enabled": True}])
def test_a_step_waits_for_no_number_of_the_device(arguments, options):
    config = TwinFlowConfig(twinflow_enabled=True, **options)
    data = LatentBatches(samples(), seed=0, batch_size=BATCH, empty_condition=sd3_condition(1))
    arguments = replace(arguments, checkpointing_steps=9, gradient_accumulation_steps=2)
    WithoutReads(sd3_transformer(), arguments, TwinFlow(config), data).train()


class Failure(TrainerCallback):
    def on_step(self, trainer, step):
        raise RuntimeError("no more")


def test_an_error_ends_the_progress_bar(arguments):
    callbacks = [*default_callbacks(arguments), Failure()]
    [progress] = [callback for callback in callbacks if isinstance(callback, ProgressCallback)]
    with pytest.raises(RuntimeError, match="no more"):
        Trainer(sd3_transformer(), arguments, FlowMatching(), samples(), callbacks=callbacks).train()
    assert progress.bar.disable  # as after `close`


def test_evaluate_needs_a_score(arguments):
    trainer = Trainer(sd3_transformer(), arguments, FlowMatching(), samples(), callbacks=[])
    trainer.train()
    with pytest.raises(TwinFlowConfigError, match="No score is set"):
        trainer.evaluate()


@pytest.mark.parametrize("method", ["evaluate", "save"])
def test_what_needs_a_model_says_to_train_first(arguments, method, tmp_path):
    trainer = Trainer(sd3_transformer(), arguments, FlowMatching(), samples())
    with pytest.raises(TwinFlowConfigError, match=r"Call `train\(\)` or `prepare\(\)` first"):
        getattr(trainer, method)()
    assert not (tmp_path / "out").exists()


def test_save_writes_the_current_weights_elsewhere(arguments, base_dir, tmp_path):
    pipeline = StableDiffusion3Pipeline.from_pretrained(base_dir, text_encoder_3=None, tokenizer_3=None)
    trainer = Trainer(pipeline, arguments, TwinFlow(WITHOUT_GUIDANCE), samples())
    trainer.train()
    trainer.save(tmp_path / "copy")
    loaded = [TwinFlowPipeline.from_pretrained(tmp_path / name) for name in ("out", "copy")]
    assert torch.equal(*map(draw, loaded))
    assert loaded[1].twinflow_config.trained["steps"] == 2
