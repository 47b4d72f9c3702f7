"""Train a base model with a method and data, and save the distilled model."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import cached_property
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from diffusers import FlowMatchEulerDiscreteScheduler, ModularPipeline
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from peft import LoraConfig
from torch import nn

from ..conditions import VelocityFunction, VelocityOf
from ..configuration import FlowMatchingConfig, TwinFlowConfig, TwinFlowConfigError
from ..data import DataConfig, TrainingData, open_source
from ..data.batches import PART_WEIGHTS, Batch, Batches, LatentBatches, check_samples
from ..data.rows import Rows, are_rows, is_stream
from ..data.source import Source
from ..families import FAMILIES, Family, blocks_pipeline, family_of
from ..hub.base_loras import merge_base_loras, parse_base_loras
from ..hub.repository import TwinFlowRepositoryConfig
from ..hub.write_access import whole_repo_id
from ..methods import FlowMatching, LossOutput, Method, Networks
from ..methods.base import AveragedWeights, Teacher
from ..methods.checks import check_method, check_output, named_conditions
from ..methods.merged_passes import MergedPasses
from ..models.denoisers_by_time import DenoisersByTime, denoisers_in
from .accelerators import build_accelerator
from .arguments import TrainingArguments
from .base_model import (
    base_name_of,
    freeze,
    load_frozen_pipeline,
    lora_config,
    prepare_full,
    prepare_lora,
    weight_dtype_of,
)
from .callbacks import TrainerCallback, default_callbacks
from .checkpoint_files import checkpoint_step
from .checks import check_arguments, check_base, check_denoisers, check_family, unused_arguments
from .compilation import compile_blocks, share_graphs, start_compiler, with_single_samples_twice
from .cuda_graphs import CudaGraphRecorder, check_recorded_family, reason_against_gradients
from .distributed import (
    autocast,
    check_sharding,
    clip_grad_norm,
    on_main_process,
    place_teacher,
    shards_parameters,
)
from .dry_run import DryRun, save_report
from .limits import check_batch
from .merging import merged_lora
from .optimizer import build_lr_scheduler, build_optimizer, learning_rates, parameter_groups
from .replayed_passes import ReplayedPasses
from .resuming import check_options, check_sizes, check_steps, load_checkpoint
from .run_folder import RunFolder
from .saving import push_result, repository_config, rewrite_card, save_result, write_card
from .schedule import SAMPLES_PER_EPOCH, Schedule, known_steps
from .state import TrainedWeights
from .training_health import check_finite
from .validation_images import Validation

logger = get_logger(__name__)
Result = TypeVar("Result")

PADDED_BATCH = 4
"""Smallest batch of a compiled run in which a single sample runs twice. In smaller batches, single samples are usual."""


class Trainer:
    """Trains a LoRA or all weights of a flow-matching model with a method such as `TwinFlow` or `FlowMatching`.

    `train` runs everything: it loads the base, trains, writes checkpoints and the result to `output_dir`, and pushes
    the result if `push_to_hub` is set. To change a part, pass other callbacks, or override `build_lora_config`,
    `build_parameter_groups`, `build_lr_scheduler` or `velocity_of`.

    Args:
        model: the base, as one of: a Hub id or folder; a loaded stock or modular pipeline, whose transformer is trained in
            place; or a loaded transformer, if `data` already has latents and conditions. Defaults to the base in `arguments`.
        arguments: options of the run.
        method: training method. Defaults to flow matching.
        data: one of: a `datasets.Dataset` or `datasets.IterableDataset` with the columns `image_column` and
            `caption_column`; latents and conditions, as `LatentBatches` or as the samples or batches that it takes.
            Defaults to the data that `arguments` name.
        callbacks: callbacks of the run. Defaults to `default_callbacks(arguments)`.
        family: name of the model family, needed only if a transformer fits several; or the family that encoded `data`.
            A family that is derived from its pipeline must be given, because it has learned how the pipeline calls its
            model.

    Attributes:
        arguments: options with all defaults resolved. The options that you passed do not change.
        pipeline: the base with the trained model, available after `prepare`.
        transformer: the trained model, unwrapped. For a base with two denoisers, a module that contains both.
        average: the averaged weights, or `None` if there are none.
        problems: messages about parts that failed without stopping the training.
        last_scores: scores of the result by name, if any were measured.

    Raises:
        TwinFlowConfigError: if options contradict each other or do not fit the base. This is checked before anything
            is loaded.

    Examples:
        >>> arguments = TrainingArguments("stabilityai/stable-diffusion-3.5-medium", instance_data_dir="photos")
        >>> trainer = Trainer(None, arguments, TwinFlow(TwinFlowConfig(twinflow_enabled=True)))
        >>> trainer.train()
        >>> trainer.push_to_hub("me/my-lora")
    """

    def __init__(
        self,
        model: str | Path | DiffusionPipeline | ModularPipeline | ModelMixin | None,
        arguments: TrainingArguments,
        method: Method | None = None,
        data: Rows | Batches | Iterable[Batch] | None = None,
        *,
        callbacks: Sequence[TrainerCallback] | None = None,
        family: str | Family | None = None,
    ) -> None:
        _check_types(model, arguments, method)
        self.method: Method = FlowMatching() if method is None else method
        check_method(self.method)
        self.config: TwinFlowConfig = self.method.config
        self.given_model = blocks_pipeline(model) if isinstance(model, ModularPipeline) else model
        self.given_rows = data if are_rows(data) else None
        self.given_data = None if are_rows(data) else data
        check_samples(self.given_data)
        self.arguments = self._resolve(arguments)
        check_arguments(self.arguments, self.config)
        self.family = self._find_family(family)
        self.data_config: DataConfig | None = None
        if self.given_data is None:
            has_rows = self.given_rows is not None
            self.data_config = DataConfig.from_options(
                self.arguments,
                self.config.twinflow_image_free,
                has_rows=has_rows,
                sound_fps=self.family.sound_frame_rate,
            )
        if self.arguments.push_to_hub and self.arguments.hub_model_id:
            repo_id = whole_repo_id(self.arguments.hub_model_id, self.arguments.hub_token)
            self.arguments = replace(self.arguments, hub_model_id=repo_id)
        self.callbacks = list(default_callbacks(self.arguments) if callbacks is None else callbacks)
        self.folder: RunFolder | None = None
        self.average: AveragedWeights | None = None
        self.problems: list[str] = []
        self.last_scores: dict[str, float] = {}
        self.is_stopped = False
        self.step = 0

    def _resolve(self, arguments: TrainingArguments) -> TrainingArguments:
        resolved: dict[str, Any] = {}
        if isinstance(self.given_model, (str, Path)):
            resolved["pretrained_model_name_or_path"] = str(self.given_model)
        elif isinstance(self.given_model, (DiffusionPipeline, ModelMixin)) and not (
            arguments.pretrained_model_name_or_path
        ):
            resolved["pretrained_model_name_or_path"] = self.given_model.config.get("_name_or_path") or None
        if self.given_rows is not None and is_stream(self.given_rows):
            resolved["streaming"] = True
        if arguments.use_ema is None:
            resolved["use_ema"] = self.method.use_ema
        if arguments.mixed_precision is None:
            resolved["mixed_precision"] = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if self.config.twinflow_enabled and arguments.use_ema not in (None, self.method.use_ema):
            raise TwinFlowConfigError(
                f"use_ema={arguments.use_ema} contradicts the teacher of the method. Leave it out, and choose the "
                "teacher with TwinFlow(config, teacher=...)."
            )
        return replace(arguments, **resolved)

    def _find_family(self, name: str | Family | None) -> Family:
        model = self.given_model
        if isinstance(name, Family):
            family = name
        elif isinstance(model, DiffusionPipeline):
            family = family_of(model, name)
        elif isinstance(model, ModelMixin):
            fitting = [each for each in FAMILIES.values() if each.is_of(model) and name in (None, each.name)]
            if not fitting:
                raise TwinFlowConfigError(
                    f"model is a {type(model).__name__}, which belongs to no model family"
                    + (f" {name!r}" if name else "")
                    + f": use a model of one of {', '.join(FAMILIES)}."
                )
            family = fitting[0]
        else:
            return check_base(self.arguments, self.config, bool(self.arguments.use_ema))
        self.config.check_training(flow_matching=True, use_ema=bool(self.arguments.use_ema))
        check_family(self.arguments, family, is_encoded=self.given_data is not None)
        return family

    @cached_property
    def accelerator(self) -> Accelerator:
        """The accelerator of the run. It is built when it is first used."""
        return build_accelerator(self.arguments)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the run and of its method, as in a recipe."""
        return self.arguments.to_dict() | self.method.options()

    # What a subclass may override.

    def build_lora_config(self, transformer: ModelMixin) -> LoraConfig:
        """Build PEFT's configuration of the LoRA."""
        return lora_config(transformer, self.family, self.arguments)

    def build_parameter_groups(
        self, transformer: nn.Module, learning_rate: float, time_conditioning_learning_rate: float
    ) -> list[dict[str, Any]]:
        """Build the optimizer's parameter groups: the weights first, then the time conditioning."""
        return parameter_groups(transformer, learning_rate, time_conditioning_learning_rate)

    def build_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        """Build the learning rate schedule. accelerate advances it once per process."""
        processes = self.accelerator.num_processes
        return build_lr_scheduler(self.arguments, optimizer, self.schedule.total_steps, processes)

    def velocity_of(self, transformer: torch.nn.Module) -> VelocityFunction:
        """Build the velocity function that training uses for the student and for the teacher."""
        return self.family.network_velocity(transformer)

    # Setting up.

    def load_pipeline(self) -> DiffusionPipeline:
        """Load the frozen base and add the trained weights."""
        model = self.given_model
        if isinstance(model, (DiffusionPipeline, ModelMixin)):
            pipeline = freeze(model if isinstance(model, DiffusionPipeline) else pipeline_of(model, self.family))
            merge_base_loras(pipeline, parse_base_loras(self.arguments.base_loras))
        else:
            pipeline = load_frozen_pipeline(self.family, self.arguments)
        denoisers = self.family.denoisers(pipeline)
        check_denoisers(self.arguments, denoisers)
        for transformer in denoisers.values():
            self.prepare_transformer(transformer)
        return pipeline

    def prepare_transformer(self, transformer: ModelMixin) -> None:
        """Add the trained weights to a frozen transformer."""
        if self.arguments.train_type == "full":
            prepare_full(transformer, self.method, self.family)
        else:
            prepare_lora(transformer, self.method, self.family, self.build_lora_config)
        if self.arguments.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()

    def prepare(self, checkpoint: Path | None = None) -> None:
        """Load and build everything, and load a checkpoint if one is given.

        Args:
            checkpoint: folder of a checkpoint to resume from. Defaults to none.

        Raises:
            TwinFlowConfigError: if the data cannot be read, or the checkpoint does not fit the options.
        """
        args, accelerator = self.arguments, self.accelerator
        if args.compile:
            start_compiler()
        check_sharding(accelerator, self.family)
        check_recorded_family(args, self.family)
        if note := unused_arguments(args, self.method.options()):
            logger.warning(note)
        source = None
        if self.data_config is not None:
            source = open_source(
                self.data_config,
                args.output_dir,
                resume=checkpoint is not None,
                batch_size=args.train_batch_size,
                rows=self.given_rows,
            )
        samples = self._count_samples(source)
        if samples and (note := check_batch(args, samples, accelerator.num_processes)):
            logger.warning(note)
        logger.info(f"loading {args.pretrained_model_name_or_path}")
        self.pipeline = self.load_pipeline()
        self.family = self.family.bind(self.pipeline)
        if self.given_data is None:
            self.family = self.family.for_samples(
                self.pipeline,
                resolution=args.resolution,
                num_frames=args.num_frames,
                max_sequence_length=args.max_sequence_length,
            )
        self.transformer = self.family.network(self.pipeline)
        self.data: Batches
        if self.given_data is not None:
            if isinstance(self.given_data, Batches):
                self.data = self.given_data
            else:
                self.data = LatentBatches(self.given_data, seed=args.seed, batch_size=args.train_batch_size)
            self.transformer.to(accelerator.device)
        elif source is not None:
            self.data = TrainingData(
                source,
                self.family,
                self.pipeline,
                base_name=" + ".join(
                    [args.pretrained_model_name_or_path or type(self.transformer).__name__, *(args.base_loras or ())]
                ),
                seed=args.seed,
                batch_size=args.train_batch_size,
                tries_sizes=True,
            )
        check_recorded_family(args, self.family)
        self._plan(checkpoint)
        self._wrap()
        self._register(checkpoint)
        self._log_summary()
        self._call("on_train_begin")

    def _count_samples(self, source: Source | None) -> int | None:
        """Return the number of samples per epoch before anything is loaded; `None` if it is not known yet."""
        if source is not None:
            return source.epoch_size
        return len(self.given_data) if isinstance(self.given_data, Sequence) else None

    def _plan(self, checkpoint: Path | None) -> None:
        first_step = checkpoint_step(checkpoint) if checkpoint else 0
        processes = self.accelerator.num_processes
        self.schedule = Schedule.plan(self.arguments, processes, first_step, self.data.epoch_size)
        self.step = first_step
        if checkpoint:
            check_sizes(checkpoint, self.schedule.sizes)
            check_steps(checkpoint, self.schedule.total_steps)
        samples = self.schedule.step_samples
        self.loader: Iterable[Batch] = self.data.loader(
            first_position=first_step * samples,
            last_position=self.schedule.total_steps * samples,
            step_samples=samples,
        )

    def _wrap(self) -> None:
        args, accelerator, transformer = self.arguments, self.accelerator, self.transformer
        factor = self.schedule.step_samples if args.scale_lr else 1
        conditioning_rate = args.time_conditioning_learning_rate or args.learning_rate
        groups = self.build_parameter_groups(transformer, args.learning_rate * factor, conditioning_rate * factor)
        optimizer = build_optimizer(args, groups, args.learning_rate * factor)
        lr_scheduler = self.build_lr_scheduler(optimizer)
        self.merged = merged_lora(transformer, args, accelerator)
        for denoiser in denoisers_in(transformer):
            if args.compile and not compile_blocks(denoiser):
                logger.warning(
                    f"`compile` has no effect: {type(denoiser).__name__} does not say which of its blocks repeat"
                )
        if isinstance(transformer, DenoisersByTime):
            transformer.runs_both = accelerator.num_processes > 1
        teacher_copy = self.method.copy_for_teacher(transformer)
        self.model, self.optimizer, self.lr_scheduler = accelerator.prepare(transformer, optimizer, lr_scheduler)
        if teacher_copy is not None:
            if args.compile:
                share_graphs(transformer, teacher_copy)
            teacher_copy = place_teacher(accelerator, teacher_copy, args.offload_ema)
        velocity_of, velocity_without_grad_of = self._velocities()
        self.teacher: Teacher | None = self.method.build_teacher(transformer, velocity_without_grad_of, teacher_copy)
        self.networks = Networks(
            student=velocity_of(self.model),
            student_without_grad=velocity_without_grad_of(transformer),
            teacher=self.teacher,
            unconditional=self.data.unconditional() if self.method.needs_unconditional else None,
        )
        if self.merged is not None:
            self.networks = MergedPasses(transformer, self.merged, self.networks).networks
        self.trainable = [parameter for parameter in transformer.parameters() if parameter.requires_grad]

    def _velocities(self) -> tuple[VelocityOf, VelocityOf]:
        """Return what builds the velocity functions of the passes with and without gradient."""
        args = self.arguments

        def named(transformer: nn.Module) -> VelocityFunction:
            return named_conditions(self.velocity_of(transformer))

        velocity_of: VelocityOf = named
        if args.compile and args.train_batch_size >= PADDED_BATCH and not self.family.takes_one_sample:
            velocity_of = with_single_samples_twice(velocity_of)
        if not args.cuda_graphs:
            return velocity_of, velocity_of
        merged = self.merged
        passes = ReplayedPasses(CudaGraphRecorder(), velocity_of, lambda: merged is not None and merged.is_on)
        reason = reason_against_gradients(args, is_wrapped=self.model is not self.transformer)
        if reason is None:
            return passes.velocity_with_gradient, passes.velocity
        logger.info(f"`cuda_graphs` replays only passes without gradient, because {reason}")
        return velocity_of, passes.velocity

    def _register(self, checkpoint: Path | None) -> None:
        accelerator = self.accelerator
        TrainedWeights(self.transformer).register(accelerator)
        self.data.register(accelerator)
        if self.teacher is not None:
            accelerator.register_for_checkpointing(self.teacher)
            self.average = self.teacher if self.teacher.is_average else None
        self.validation = Validation(
            self.arguments,
            self.config.twinflow_enabled,
            self.family,
            self.pipeline,
            accelerator,
            self.data.with_encoders,
        )
        self._call("on_prepare")
        if checkpoint:
            load_checkpoint(accelerator, checkpoint, self.model, self.optimizer, self.lr_scheduler)
            logger.info(f"resumed from {checkpoint}")

    def keep_average(self, average: AveragedWeights) -> None:
        """Register averaged weights. They are part of checkpoints, and are saved and evaluated instead of the trained ones."""
        self.average = average
        self.accelerator.register_for_checkpointing(average)

    def _log_summary(self) -> None:
        """Log the model, the data, what is trained and where the result is saved."""
        args, schedule = self.arguments, self.schedule
        parameters = list(self.transformer.parameters())
        trained = sum(parameter.numel() for parameter in self.trainable)
        total = sum(parameter.numel() for parameter in parameters)
        where = args.dataset_name or args.instance_data_dir or args.prompts_file or ", ".join(args.data_files or [])
        samples = schedule.sizes.get(SAMPLES_PER_EPOCH)
        what = f"LoRA of rank {args.rank}" if args.train_type == "lora" else "all weights"
        precision = str(weight_dtype_of(args)).removeprefix("torch.")
        processes = self.accelerator.num_processes
        names = [type(each).__name__ for each in denoisers_in(self.transformer)]
        data = where or type(self.data if self.given_rows is None else self.given_rows).__name__
        size = f"{samples:,} samples" if samples else "a stream"
        lines = [
            f"model: {args.pretrained_model_name_or_path} ({' and '.join(names)}, {precision})",
            f"data: {data}, {size} at {args.resolution} pixels",
            f"trains: {what} with {self.method.name}, {trained:,} of {total:,} parameters",
            f"steps: {schedule.first_step} to {schedule.total_steps}, {schedule.step_samples} samples each "
            f"on {processes} process{'es' if processes > 1 else ''}",
            f"output: {Path(args.output_dir).resolve()}",
        ]
        for line in lines:
            logger.info(line)

    # The run.

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """Train to the last step and save the result. With `dry_run`, measure and write a report instead.

        At the end, processes leave their group (`Accelerator.end_training`). After an error they do not: PyTorch would wait
        there for collectives that other processes may never join. Let the process end, so that the others are stopped.

        Args:
            resume_from_checkpoint: name or path of a checkpoint, or "latest". Defaults to the option of the same name.

        Raises:
            TwinFlowConfigError: if the run cannot start, or the checkpoint cannot be resumed.
            FloatingPointError: if the weights are not finite, or most steps were skipped. No result is saved then.
            DiskError: if the disk is full. Files that were written before are not changed.
        """
        if self.arguments.dry_run:
            self.dry_run()
            return
        base_name_of(self.arguments)
        with ExitStack() as exits:
            checkpoint = self._claim_folder(resume_from_checkpoint or self.arguments.resume_from_checkpoint, exits)
            exits.callback(self._call, "on_exit")
            self.prepare(checkpoint)
            self._loop()
            self._finish()

    def dry_run(self) -> dict[str, Any]:
        """Measure one step of each kind and one image, and write a report of time and memory to `output_dir`."""
        self.prepare()
        report = DryRun(self).measure()
        if self.accelerator.is_main_process:
            path = save_report(report, self.arguments.output_dir)
            logger.info(f"report saved to {path}")
        self.accelerator.end_training()
        return report

    def stop(self) -> None:
        """End the run after this step and save the result as if training were complete. All processes must call it."""
        self.is_stopped = True

    def _claim_folder(self, resume_from_checkpoint: str | None, exits: ExitStack) -> Path | None:
        """Lock the output folder in the main process until `exits` closes, and find the checkpoint to resume from."""

        def claim() -> Path | None:
            self.folder = RunFolder(self.arguments.output_dir)
            exits.callback(self.folder.release)
            return self.folder.choose(resume_from_checkpoint)

        checkpoint = on_main_process(self.accelerator, claim)
        if checkpoint:
            check_options(self.options, checkpoint)
            check_steps(checkpoint, known_steps(self.arguments))
        return checkpoint

    def _loop(self) -> None:
        schedule, is_step_start = self.schedule, True
        if self.step:
            self._call("on_due", self.step, True)
        if self.is_stopped or self.step == schedule.total_steps:
            return
        for batch in self.loader:
            if is_step_start:
                self.begin_step()
            grad_norm = self.train_micro_batch(batch)
            is_step_start = self.accelerator.sync_gradients
            if not is_step_start:
                continue
            self.step += 1
            self._call("on_step", self.step)
            if grad_norm is not None and self.step % self.arguments.logging_steps == 0:
                self._log(grad_norm)
            if not self.is_stopped and any(callback.is_due(self, self.step) for callback in self.callbacks):
                self._call("on_due", self.step, False)
            if self.is_stopped:
                break

    def begin_step(self) -> None:
        """Update the teacher before it is used in a step."""
        if self.teacher is not None:
            self.teacher.update()
        self._call("on_step_begin")

    def train_micro_batch(self, batch: Batch) -> torch.Tensor | None:
        """Run the forward and backward pass, and the optimizer step if this is the last micro-batch of the step.

        Returns:
            The gradient norm before clipping after the last micro-batch of a step, else `None`.
        """
        accelerator, grad_norm, takes_step = self.accelerator, None, True
        with accelerator.accumulate(self.model), autocast(accelerator):
            with nullcontext() if self.merged is None else self.merged.used():
                output = check_output(self.loss(batch), self.method, len(batch["position"]))
                accelerator.backward(output.loss)
            self._call("on_loss", output, len(batch["position"]))
            if accelerator.sync_gradients:
                grad_norm = clip_grad_norm(accelerator, self.trainable, self.arguments.max_grad_norm)
                answers = [callback.takes_step(self, grad_norm) for callback in self.callbacks]
                takes_step = all(answers)
            if takes_step:
                self.optimizer.step()
            self.lr_scheduler.step()
            self.optimizer.zero_grad()
        return grad_norm

    def loss(self, batch: Batch) -> LossOutput:
        """Compute the method's loss of one micro-batch."""
        passes_of = self.schedule.step_positions(batch["position"][0]) if shards_parameters(self.accelerator) else None
        networks = self.networks
        if self.method.needs_unconditional and (own := self.data.read_unconditional(batch)) is not None:
            networks = replace(networks, unconditional=own)
        latents, condition = self.data.read(batch)
        weights = self.family.number_weights(latents.shape[1:], latents.device, batch.get(PART_WEIGHTS))
        if weights is not None:
            networks = replace(networks, weights=weights)
        draw = self.method.draw(
            batch["position"],
            latents.shape[1:],
            seed=self.arguments.seed,
            device=latents.device,
            passes_of=passes_of,
        )
        return self.method.loss(latents, condition, draw, networks)

    def _log(self, grad_norm: torch.Tensor) -> None:
        values: dict[str, float] = {}
        for callback in self.callbacks:
            values |= callback.log_values(self, self.step)
        values |= {"grad_norm": float(grad_norm)} | learning_rates(self.optimizer)
        if self.teacher is not None and self.teacher.decay is not None:
            values["teacher_decay"] = self.teacher.decay
        self._call("on_log", self.step, values)

    def attempt(self, step: int, what: str, work: Callable[[], Result]) -> Result | None:
        """Run work that training does not depend on. If it fails, add the error to `problems` and continue.

        With several processes the run stops instead, because a process cannot tell whether the others failed too.
        """
        try:
            return work()
        except TwinFlowConfigError:
            raise
        except Exception as error:
            if self.accelerator.num_processes > 1:
                raise
            self.problems.append(f"step {step}: {what} failed ({type(error).__name__}: {error})")
            logger.warning(self.problems[-1], exc_info=True)
            return None

    # The result.

    def describe(self, step: int, directory: str | Path | None = None) -> TwinFlowRepositoryConfig:
        """Build the contents of `twinflow_config.json` for the weights after `step` steps."""
        return repository_config(self.arguments, self.options, self.config, self.family, step, directory)

    def _finish(self) -> None:
        """Save the result, score it, generate its images, write its model card, and push it if `push_to_hub` is set."""
        args, step = self.arguments, self.step
        self._call("before_save", step)
        check_finite(self.trainable, step, self.accelerator)
        self.save()
        logger.info(f"saved to {args.output_dir}")
        self._call("on_train_end", step)
        if self.accelerator.is_main_process:
            if self.config.twinflow_enabled:
                write_card(args, scores=self.last_scores or None)
            if self.folder is not None:
                self.folder.finish()
            if args.push_to_hub:
                push_result(args)
        self.accelerator.end_training()

    def save(self, directory: str | Path | None = None, step: int | None = None) -> None:
        """Save the trained model: a TwinFlow repository, or a stock LoRA or pipeline if TwinFlow is off.

        All processes must call it.

        Args:
            directory: folder to write to. It is replaced, except for `output_dir` (the default), where other files stay.
            step: number of steps that the weights were trained for. Defaults to the current step.

        Raises:
            DiskError: if it cannot be written. The earlier contents are then unchanged.
            TwinFlowConfigError: if nothing was trained or prepared yet.
        """
        self._check_prepared()
        step = self.step if step is None else step
        save_result(
            self.arguments,
            self.options,
            self.config,
            self.family,
            self.pipeline,
            self.average,
            step,
            directory=directory,
        )

    def evaluate(self) -> dict[str, float]:
        """Score the current weights with the scores in the options.

        Returns:
            The scores by name.

        Raises:
            TwinFlowConfigError: if no callback measures scores, or if nothing was trained or prepared yet.
        """
        self._check_prepared()
        values: dict[str, float] = {}
        for callback in self.callbacks:
            values |= callback.score(self, self.step)
        if not values:
            raise TwinFlowConfigError("No score is set. Set `score_steps` and a score such as `frechet_model`.")
        return values

    def push_to_hub(self, repo_id: str | None = None) -> None:
        """Push the result in `output_dir` to the Hub.

        Args:
            repo_id: Hub id, such as "me/my-lora". Defaults to `hub_model_id`.

        Raises:
            TwinFlowPushError: if the push fails. The result stays on disk.
        """
        args = self.arguments
        if repo_id is not None:
            args = replace(args, hub_model_id=whole_repo_id(repo_id, args.hub_token))
            rewrite_card(args)
        push_result(args)

    def _check_prepared(self) -> None:
        if not hasattr(self, "networks"):
            raise TwinFlowConfigError("The trainer has no model yet. Call `train()` or `prepare()` first.")

    def _call(self, name: str, *values: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, name)(self, *values)


def pipeline_of(transformer: ModelMixin, family: Family) -> DiffusionPipeline:
    """Build a stock pipeline with only a transformer, for training on latents and conditions."""
    parameters = signature(family.pipeline_class.__init__).parameters
    missing = {name: None for name, each in parameters.items() if each.default is Parameter.empty and name != "self"}
    scheduler = FlowMatchEulerDiscreteScheduler()
    return family.pipeline_class(**(missing | {family.component_name: transformer, "scheduler": scheduler}))


def _check_types(model: Any, arguments: Any, method: Any) -> None:
    """Raise a `TypeError` if the model, the options or the method are of another kind, such as a dictionary."""
    if model is not None and not isinstance(model, (str, Path, DiffusionPipeline, ModularPipeline, ModelMixin)):
        raise TypeError(
            f"model is a {type(model).__name__}: pass a Hub id, a folder, a pipeline of diffusers or a transformer of "
            "diffusers."
        )
    if not isinstance(arguments, TrainingArguments):
        raise TypeError(
            f"arguments is a {type(arguments).__name__}: pass TrainingArguments(...), or read a recipe with load_recipe."
        )
    if isinstance(method, (type, TwinFlowConfig, FlowMatchingConfig)):
        name = method.__name__ if isinstance(method, type) else type(method).__name__
        raise TypeError(f"method is {name}: pass a method, such as TwinFlow(TwinFlowConfig(twinflow_enabled=True)).")
