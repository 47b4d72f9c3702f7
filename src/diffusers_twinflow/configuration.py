"""The TwinFlow options with their names, defaults, help texts and rules."""

import warnings
from dataclasses import asdict, dataclass, fields
from typing import Any

from .options import TwinFlowConfigError, check_option_name, check_values, option
from .ranges import FINITE, NOT_NEGATIVE, POSITIVE, SHARE, Range
from .recommended import Length, Media, TrainType, recommended_twinflow

__all__ = ["FlowMatchingConfig", "TwinFlowConfig", "TwinFlowConfigError"]

LOSSES = ("barron", "l2")
WEIGHTINGS = ("none", "logit_normal", "mode", "sigma_sqrt", "cosmap")
MAX_STEPS = 1000
TWINFLOW, ADVERSARIAL = ("twinflow_enabled",), ("twinflow_adversarial_enabled",)
"""What the options of TwinFlow and of its adversarial branch need."""
STEP_COUNT = Range(least=1, most=MAX_STEPS)
"""The most steps that a model can be distilled for."""


@dataclass(frozen=True)
class TwinFlowConfig:
    """The options of TwinFlow distillation (arXiv:2512.05150). All times are in [0, 1] with 1 = noise.

    TwinFlow is off by default. Set `twinflow_enabled` to turn it on.

    Raises:
        TwinFlowConfigError: if a value is out of range, or if two options contradict each other.

    Examples:
        >>> config = TwinFlowConfig(twinflow_enabled=True, twinflow_target_step_count=2)
    """

    twinflow_enabled: bool = option(False, "Train with TwinFlow; false trains ordinary flow matching.")
    twinflow_target_step_count: int = option(
        1,
        "Number of inference steps to distill for (1-4 recommended); also the default for validation and inference.",
        STEP_COUNT,
        needs=TWINFLOW,
    )
    twinflow_estimate_order: int = option(
        2,
        "Number of teacher jumps in each training target (N of RCGM); 0 trains only the velocity, without jumps.",
        NOT_NEGATIVE,
        needs=TWINFLOW,
    )
    twinflow_enhanced_ratio: float = option(
        0.5,
        "Strength of the classifier-free guidance that is built into the weights; 0 turns it off, and 1 or more makes "
        "guidance grow without limit.",
        NOT_NEGATIVE,
        needs=TWINFLOW,
    )
    twinflow_delta_t: float = option(
        0.01,
        "Length in time of the first step of a jump, which follows the data's velocity.",
        Range(above=0, below=1),
        needs=TWINFLOW,
    )
    twinflow_target_clamp: float = option(
        1.0, "Limit for each element of the difference between prediction and target.", POSITIVE, needs=TWINFLOW
    )
    twinflow_require_ema: bool = option(True, "Stop with an error if there is no EMA teacher.", needs=TWINFLOW)
    twinflow_allow_no_ema_teacher: bool = option(
        False,
        "Allow training without an EMA teacher; the student is then its own teacher, which is unstable.",
        needs=TWINFLOW,
    )
    twinflow_allow_diff2flow: bool = option(
        False,
        "Allow TwinFlow for diffusion models, such as Stable Diffusion; needs `diff2flow_enabled` too.",
        needs=("diff2flow_enabled",),
    )
    twinflow_adversarial_enabled: bool = option(
        False,
        "Also train on the model's own one-step images (the adversarial branch), and add the rectification loss.",
        needs=TWINFLOW,
    )
    twinflow_adversarial_weight: float = option(
        1.0, "Loss weight of the adversarial samples.", NOT_NEGATIVE, needs=ADVERSARIAL
    )
    twinflow_rectify_weight: float = option(
        1.0,
        "Weight of the rectification loss, which is averaged over the whole batch; lower it if the adversarial loss jumps.",
        NOT_NEGATIVE,
        needs=ADVERSARIAL,
    )
    twinflow_one_step_share: float = option(
        1.0,
        "Share of the samples that learn to jump from noise to data (t = 1, r = 0), relative to the other shares.",
        NOT_NEGATIVE,
        needs=TWINFLOW,
    )
    twinflow_multi_step_share: float = option(
        1.0, "Share of the samples that learn the shortest jumps (r just below t).", NOT_NEGATIVE, needs=TWINFLOW
    )
    twinflow_any_step_share: float = option(
        1.0, "Share of the samples that learn jumps of any length (r anywhere below t).", NOT_NEGATIVE, needs=TWINFLOW
    )
    twinflow_few_step_share: float = option(
        0.0, "Share of the samples that learn to jump from any t to data (r = 0).", NOT_NEGATIVE, needs=TWINFLOW
    )
    twinflow_adversarial_share: float = option(
        1.0,
        "Share of the samples in the adversarial branch; used only with `twinflow_adversarial_enabled`.",
        NOT_NEGATIVE,
        needs=ADVERSARIAL,
    )
    twinflow_time_alpha: float = option(
        1.0, "First parameter of the Beta distribution that t is drawn from.", POSITIVE, needs=TWINFLOW
    )
    twinflow_time_beta: float = option(
        1.0, "Second parameter of the Beta distribution that t is drawn from.", POSITIVE, needs=TWINFLOW
    )
    twinflow_time_scale: float = option(
        1.0, "Factor for the drawn t, which is then clamped to [0, 1].", Range(above=0, most=1), needs=TWINFLOW
    )
    twinflow_consistency_ratio: float = option(
        1.0, "Longest jump as a fraction of t: r = t - U * t * ratio, with U uniform in [0, 1).", SHARE, needs=TWINFLOW
    )
    twinflow_enhanced_low: float = option(
        0.0,
        "Build in guidance only at times above this t.",
        SHARE,
        needs=("twinflow_enabled", "twinflow_enhanced_ratio"),
    )
    twinflow_enhanced_high: float = option(
        1.0,
        "Build in guidance only at times below this t.",
        SHARE,
        needs=("twinflow_enabled", "twinflow_enhanced_ratio"),
    )
    twinflow_loss: str = option(
        "barron", "Loss: 'barron' gives large errors less weight, 'l2' does not.", choices=LOSSES, needs=TWINFLOW
    )
    twinflow_barron_alpha: float = option(
        1.0,
        "Shape (alpha) of the Barron loss.",
        Range(least=0, most=2),
        needs=("twinflow_enabled", "twinflow_loss=barron"),
    )
    twinflow_barron_scale: float = option(
        1e-3, "Scale (c) of the Barron loss.", POSITIVE, needs=("twinflow_enabled", "twinflow_loss=barron")
    )
    twinflow_ema_decay: float = option(
        0.99,
        "Decay of the EMA teacher after its warm-up; 0 makes the student its own teacher, 1 uses the base as teacher.",
        SHARE,
        needs=TWINFLOW,
    )
    twinflow_image_free: bool = option(
        False,
        "Train only on the model's own one-step images; the images of the data are not read. With the base as teacher, "
        "its guided velocity is the target.",
    )
    twinflow_split_passes: bool = option(
        False,
        "Run the two passes of guidance, and the two of rectification, one after the other to save memory. Those of "
        "rectification always run so if a process has more than 16 samples per batch.",
        needs=TWINFLOW,
    )
    diff2flow_enabled: bool = option(False, "Train a diffusion model, which predicts noise, v or data, as a flow.")

    def __post_init__(self) -> None:
        check_values(self)
        if self.twinflow_enhanced_low >= self.twinflow_enhanced_high:
            raise TwinFlowConfigError(
                f"twinflow_enhanced_low={self.twinflow_enhanced_low!r} is not valid: it must be below "
                f"twinflow_enhanced_high, which is {self.twinflow_enhanced_high!r}."
            )
        if sum(self.branch_shares.values()) == 0:
            raise TwinFlowConfigError("Every twinflow_*_share is 0: set at least one of them above 0.")
        if self.twinflow_enabled:
            self._check_teacher()

    def _check_teacher(self) -> None:
        if self.twinflow_ema_decay == 0 and not self.twinflow_allow_no_ema_teacher:
            raise TwinFlowConfigError(
                "twinflow_ema_decay=0 makes the student its own teacher, which is unstable: choose a decay such as 0.99, "
                "or set twinflow_allow_no_ema_teacher=true to train without an EMA teacher."
            )

    @property
    def branch_shares(self) -> dict[str, float]:
        """Share of the batch by branch. The shares need not sum to 1."""
        return {
            "one_step": self.twinflow_one_step_share,
            "few_step": self.twinflow_few_step_share,
            "any_step": self.twinflow_any_step_share,
            "multi_step": self.twinflow_multi_step_share,
            "adversarial": self.twinflow_adversarial_share if self.twinflow_adversarial_enabled else 0.0,
        }

    @property
    def has_frozen_teacher(self) -> bool:
        """Whether the teacher is the base before training. The student then makes the jumps of its targets."""
        return self.twinflow_ema_decay == 1

    @property
    def is_data_free(self) -> bool:
        """Whether the target is the frozen teacher's guided velocity instead of the data's velocity."""
        return self.has_frozen_teacher and self.twinflow_image_free

    @property
    def needs_unconditional(self) -> bool:
        """Whether training evaluates the empty prompt."""
        return self.twinflow_enabled and self.twinflow_enhanced_ratio > 0

    def check_training(self, *, flow_matching: bool, use_ema: bool) -> None:
        """Check that these options can train a model, before the model is loaded.

        Args:
            flow_matching: whether the model to train predicts a flow-matching velocity.
            use_ema: whether there is an EMA teacher.

        Raises:
            TwinFlowConfigError: if they cannot; the message names the option and says what to do.
        """
        if not self.twinflow_enabled:
            if not flow_matching and not self.diff2flow_enabled:
                raise TwinFlowConfigError(
                    "This base is not a flow-matching model: choose a flow-matching base, or set diff2flow_enabled=true "
                    "to train this one as a flow (with TwinFlow, also twinflow_allow_diff2flow=true)."
                )
            return
        if not flow_matching and not (self.diff2flow_enabled and self.twinflow_allow_diff2flow):
            raise TwinFlowConfigError(
                "twinflow_enabled=true needs a flow-matching model, and this base is not one: choose a flow-matching "
                "base, or set diff2flow_enabled=true and twinflow_allow_diff2flow=true to train this one as a flow."
            )
        self.check_teacher(use_ema)
        self._warn_of_guidance()

    def check_teacher(self, use_ema: bool) -> None:
        """Check that there is an EMA teacher, or that the options allow training without one.

        Args:
            use_ema: whether there is an EMA teacher.

        Raises:
            TwinFlowConfigError: if there is no EMA teacher and the options do not allow that.
        """
        if not use_ema and self.twinflow_require_ema and not self.twinflow_allow_no_ema_teacher:
            raise TwinFlowConfigError(
                "use_ema=false removes TwinFlow's teacher: leave use_ema on, or set twinflow_allow_no_ema_teacher=true "
                "(the student is then its own teacher, which is unstable)."
            )

    def _warn_of_guidance(self) -> None:
        """Warn about a ratio at which guidance grows without limit.

        An EMA teacher follows the student and so contains its guidance. Below 1 the guidance scale approaches
        `1 / (1 - ratio)`.
        """
        if self.twinflow_enhanced_ratio >= 1 and self.twinflow_ema_decay < 1:
            warnings.warn(
                f"twinflow_enhanced_ratio={self.twinflow_enhanced_ratio:g} makes guidance grow without limit, which "
                "destroys the images: choose a ratio below 1. For example, 0.5 leads to guidance scale 2.",
                stacklevel=3,
            )

    @classmethod
    def recommended(
        cls,
        *,
        train_type: TrainType = "lora",
        length: Length = "long",
        media: Media = "image",
        diffusion: bool = False,
        data_free: bool = False,
        **options: Any,
    ) -> "TwinFlowConfig":
        """Return the recommended options of TwinFlow, as `--recipe recommended` on the command line.

        Use it together with `TrainingArguments.recommended`, and make the same choices in both.

        Args:
            train_type: "lora", or "full" for all weights.
            length: "short" for about 1,000 steps, "long" for about 4,000.
            media: "image" or "video".
            diffusion: whether the base predicts epsilon or v and trains with `diff2flow_enabled`.
            data_free: whether to learn only from the frozen base, on prompts without images. The other choices then
                have no effect.
            options: options that override the recommended ones, such as `twinflow_target_step_count`.

        Raises:
            TwinFlowConfigError: if a choice or an option is not valid.

        Examples:
            >>> config = TwinFlowConfig.recommended(train_type="full", twinflow_target_step_count=2)
        """
        values = recommended_twinflow(
            train_type=train_type, length=length, media=media, diffusion=diffusion, data_free=data_free
        )
        return cls.from_dict(values | options)

    @classmethod
    def option_names(cls) -> list[str]:
        """Return the names of all options."""
        return [option_field.name for option_field in fields(cls)]

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> "TwinFlowConfig":
        """Create the options from a dictionary.

        Raises:
            TwinFlowConfigError: if a key is not an option; the message suggests the closest option. Also if a value is
                not valid.
        """
        for name in options:
            check_option_name(name, cls.option_names())
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as a dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class FlowMatchingConfig:
    """Flow matching (TwinFlow off)

    Raises:
        TwinFlowConfigError: if a value has the wrong type or is outside its range.
    """

    weighting_scheme: str = option(
        "none",
        "Distribution of the training times and weight of the loss, as in diffusers.",
        choices=WEIGHTINGS,
        needs=("!twinflow_enabled",),
    )
    logit_mean: float = option(
        0.0, "Mean of the `logit_normal` weighting.", FINITE, needs=("weighting_scheme=logit_normal",)
    )
    logit_std: float = option(
        1.0, "Standard deviation of the `logit_normal` weighting.", POSITIVE, needs=("weighting_scheme=logit_normal",)
    )
    mode_scale: float = option(1.29, "Scale of the `mode` weighting.", FINITE, needs=("weighting_scheme=mode",))

    def __post_init__(self) -> None:
        check_values(self)
