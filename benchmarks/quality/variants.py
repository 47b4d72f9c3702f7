"""The compared variants, the most important first, because a time limit cuts the rest."""

from dataclasses import dataclass, field
from pathlib import Path

from diffusers_twinflow.recommended import TrainType, recommended_training, recommended_twinflow
from diffusers_twinflow.training.base_model import ALL_LINEAR

from .base import data_options
from .own_samples import OWN_SAMPLES
from .settings import FULL as FULL_SETTINGS
from .settings import Settings

ABLATION_SCRIPT = "benchmarks/quality/train_ablated.py"
WARM_UP_STEPS = 25
SHARED = {
    "twinflow_adversarial_enabled": True,
    "twinflow_rectify_weight": 1.0,
    "twinflow_enhanced_ratio": 0.5,
    "caption_dropout_probability": 0.1,
}
FULL = {"train_type": "full", "learning_rate": 3e-4} | SHARED
LORA = {"train_type": "lora", "rank": 64, "learning_rate": 1e-3} | SHARED
FLOW_MATCHING = FULL | {"twinflow_enabled": False, "twinflow_adversarial_enabled": False, "use_ema": True}
FLOW_MATCHING |= {"flow_matching_ema_decay": 0.99}
ATTENTION = [f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")]
ATTENTION += [f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")]
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]
MODULATION = ["norm1.linear", "norm1_context.linear"]
LAYERS = {"modulation": MODULATION, "attention": ATTENTION, "feed_forward": FEED_FORWARD}


@dataclass(frozen=True)
class Variant:
    """
    Attributes:
        name: short and unique name.
        question: what the variant shows.
        options: options of the training script, in addition to the shared ones.
        length: length of its training, as a share of the usual steps.
        styles: sampling styles, in addition to few.
        ablated: options of `train_ablated.py`, which trains the variant if there are any.
        own_samples: whether images that the base generated are added to the data, see `own_samples.py`.
    """

    name: str
    question: str
    options: dict[str, object]
    length: float = 1.0
    styles: tuple[str, ...] = ("any",)
    ablated: dict[str, object] = field(default_factory=dict)
    scheduler: dict[str, object] = field(default_factory=dict)
    own_samples: bool = False

    @property
    def is_control(self) -> bool:
        return self.options.get("twinflow_enabled") is False

    def steps(self, settings: Settings) -> int:
        return max(1, round(settings.steps * self.length))


def full(name: str, question: str, **options) -> Variant:
    return _variant(f"full-{name}", question, FULL, options)


def lora(name: str, question: str, **options) -> Variant:
    return _variant(f"lora-{name}", question, LORA, options)


def all_linears(name: str, question: str, **options) -> Variant:
    return lora(f"all-linears-{name}", question, lora_layers=[ALL_LINEAR], **options)


def ranks(**by_kind: int) -> dict[str, object]:
    """Return options of `train_ablated.py`. No variant has more weights than rank 64 on all layers."""
    return {"ranks": [f"{name}={rank}" for kind, rank in by_kind.items() for name in LAYERS[kind]]}


def _variant(name: str, question: str, shared: dict, options: dict) -> Variant:
    own = {key: options.pop(key) for key in OF_VARIANT if key in options}
    renamed = {key if key in NOT_TWINFLOW else f"twinflow_{key}": value for key, value in options.items()}
    return Variant(name, question, shared | renamed, **own)


NOT_TWINFLOW = {
    "caption_dropout_probability",
    "learning_rate",
    "lr_scheduler",
    "lr_decay_share",
    "time_conditioning_learning_rate",
    "rank",
    "lora_layers",
    "train_batch_size",
    "seed",
}

OF_VARIANT = ("length", "styles", "ablated", "scheduler", "own_samples")

CONTROL = "base-continued"
FULL_LONGER, LORA_LONGER, AS_LONG = 2.8, 1.6, 5.6
EVERY_STYLE = ("any", "multi")
LONGEST = {"train_batch_size": 768, "target_clamp": 10.0, "ema_decay": 0.95, "styles": EVERY_STYLE}
FALLS = {"lr_scheduler": "warmup_stable_decay"}
SCHEDULES: dict[str, dict[str, object]] = {
    "constant": {"lr_scheduler": "constant_with_warmup"},
    "linear": {"lr_scheduler": "linear"},
    "cosine": {"lr_scheduler": "cosine"},
    **{f"falls-{share}": FALLS | {"lr_decay_share": share} for share in (0.2, 0.4, 0.6, 0.8)},
}
RECOMMENDED_LENGTH = 3.0


def recommended(name: str, question: str, train_type: TrainType, **options) -> Variant:
    """Return the recommended recipe without changes, with as many steps as fit."""
    recipe = recommended_training(train_type=train_type, train_batch_size=FULL_SETTINGS.batch_size)
    del recipe["max_train_steps"], recipe["gradient_accumulation_steps"]
    recipe |= recommended_twinflow(train_type=train_type)
    return _variant(f"{train_type}-{name}", question, recipe, {"length": RECOMMENDED_LENGTH} | options)


SQUEEZED = {"ablated": {"times": "squeezed"}, "scheduler": {"squeeze_target_time": True}}
VARIANTS: tuple[Variant, ...] = (
    full("reference", "all weights; the others change one thing", styles=EVERY_STYLE),
    lora("all-linears", "which layers", lora_layers=[ALL_LINEAR], styles=EVERY_STYLE),
    full("enhanced-0.33", "guidance", enhanced_ratio=0.3333),
    full("lr-1e-4", "learning rate", learning_rate=1e-4),
    full("one-step-2", "shares of the branches", one_step_share=2.0, rectify_weight=0.625),
    full("few-for-any", "shares of the branches", few_step_share=1.0, any_step_share=0.0),
    full("ema-0.999", "decay of the teacher", ema_decay=0.999),
    full("ema-0.95", "decay of the teacher", ema_decay=0.95),
    full("rectify-2", "rectification", rectify_weight=2.0),
    full("order-1", "teacher's steps", estimate_order=1),
    lora("reference", "LoRA of rank 64; the others change one thing", styles=EVERY_STYLE),
    lora("lr-2e-3", "learning rate", learning_rate=2e-3),
    lora("time-lr-4e-3", "learning rate of the time conditioning", time_conditioning_learning_rate=4e-3),
    lora("one-step-2", "shares of the branches", one_step_share=2.0, rectify_weight=0.625),
    full("clamp-10", "bound on what a target differs from the prediction", target_clamp=10.0),
    full("clamp-10-l2", "bound and loss", target_clamp=10.0, loss="l2"),
    lora("clamp-10", "bound on what a target differs from the prediction", target_clamp=10.0),
    full("rcgm", "without the twin", adversarial_enabled=False),
    full("enhanced-0.67", "guidance", enhanced_ratio=0.6667),
    full("negative-time", "sign embedding against negative time", ablated={"times": "negative"}),
    full("squeezed", "two times against one", **SQUEEZED),
    lora("rank-16", "rank", rank=16),
    lora("squeezed", "two times against one", **SQUEEZED),
    lora("rcgm", "without the twin", adversarial_enabled=False),
    lora("lr-5e-4", "learning rate", learning_rate=5e-4),
    full("no-dropout", "the empty prompt, which guidance is taken from", caption_dropout_probability=0.0),
    full("seed-1", "chance", seed=1),
    full("enhanced-0", "guidance", enhanced_ratio=0.0),
    full("enhanced-0.8", "guidance", enhanced_ratio=0.8),
    full("lr-6e-4", "learning rate", learning_rate=6e-4),
    full("rectify-0", "rectification", rectify_weight=0.0),
    full("shorter", "length of training", length=0.33),
    lora("shorter", "length of training", length=0.33),
    lora("seed-1", "chance", seed=1),
    Variant(CONTROL, "what more flow matching gives", FLOW_MATCHING),
    lora("attention", "which layers", lora_layers=ATTENTION),
    all_linears("modulation-16", "rank by kind of layer", ablated=ranks(modulation=16, attention=82, feed_forward=82)),
    all_linears(
        "modulation-128", "rank by kind of layer", ablated=ranks(modulation=128, attention=38, feed_forward=38)
    ),
    all_linears("attention-101", "rank by kind of layer", ablated=ranks(attention=101, feed_forward=32)),
    all_linears("feed-forward-98", "rank by kind of layer", ablated=ranks(attention=24, feed_forward=98)),
    all_linears("aligned", "time conditioning alone at first", ablated={"align_steps": 150}),
    all_linears(
        "second-factor-4", "learning rate of the factor that begins at 0", ablated={"second_factor_rate": 4.0}
    ),
    all_linears("seed-1", "chance", seed=1),
    all_linears("lr-2e-3", "learning rate", learning_rate=2e-3),
    lora("no-modulation", "which layers", lora_layers=ATTENTION + FEED_FORWARD),
    full("enhanced-1.5", "guidance", enhanced_ratio=1.5),
    lora("order-1", "teacher's steps", estimate_order=1),
    full("multi-step-2", "shares of the branches", multi_step_share=2.0, rectify_weight=1.25),
    full("longer", "length of training", length=FULL_LONGER, styles=EVERY_STYLE),
    lora("longer", "length of training", length=LORA_LONGER, styles=EVERY_STYLE),
    full("enhanced-0.67-longer", "guidance, longer", length=FULL_LONGER, enhanced_ratio=0.6667),
    all_linears("longer", "which layers, longer", length=LORA_LONGER, styles=EVERY_STYLE),
    full("clamp-10-longer", "the bound, longer", length=FULL_LONGER, target_clamp=10.0),
    full("rcgm-longer", "without the twin, longer", length=FULL_LONGER, adversarial_enabled=False),
    full("longest", "longer, larger batch, bound and decay", length=6.0, **LONGEST),
    full("longest-seed-1", "chance, longer", length=6.0, seed=1, **LONGEST),
    all_linears("longest", "longer, larger batch, bound and decay", length=4.2, **LONGEST),
    all_linears("as-long", "as many steps as all weights", length=AS_LONG, **LONGEST),
    all_linears("half-longer", "half as many steps again", length=1.5 * AS_LONG, **LONGEST),
    all_linears("clamp-10", "the bound, all linear layers", target_clamp=10.0),
    Variant(f"{CONTROL}-longer", "what more flow matching gives, longer", FLOW_MATCHING, length=FULL_LONGER),
    recommended("recommended", "the recommended recipe", "lora"),
    recommended("recommended-seed-1", "chance", "lora", seed=1),
    recommended("recommended-seed-2", "chance", "lora", seed=2),
    *(
        recommended(f"recommended-1024{suffix}", "a batch four times as large", "lora", train_batch_size=1024, **seed)
        for suffix, seed in (("", {}), ("-seed-1", {"seed": 1}), ("-seed-2", {"seed": 2}))
    ),
    recommended("recommended-own-samples", "images that the base drew among the data", "lora", own_samples=True),
    recommended("recommended", "the recommended recipe", "full"),
    lora("rank-16-longer", "rank, longer", length=LORA_LONGER, rank=16),
    *(
        full(
            f"{name}-ema-{decay}",
            "schedule of the learning rate, and decay of the teacher",
            length=FULL_LONGER,
            target_clamp=10.0,
            ema_decay=decay,
            **schedule,
        )
        for decay in (0.95, 0.99)
        for name, schedule in SCHEDULES.items()
    ),
)


def variant_options(
    variant: Variant,
    base: Path,
    data_dir: Path,
    output_dir: Path,
    settings: Settings,
    *,
    minutes: float,
    bf16: bool,
) -> dict[str, object]:
    """Return all options of one run of the training script.

    Args:
        minutes: time after which it ends, at any step.
    """
    return (
        data_options(base, data_dir, settings)
        | {
            "output_dir": str(output_dir),
            "twinflow_enabled": True,
            "twinflow_target_step_count": 2,
            "lr_scheduler": "cosine",
            "lr_warmup_steps": WARM_UP_STEPS,
            "max_train_steps": variant.steps(settings),
            "max_train_minutes": round(minutes, 2),
            "logging_steps": 5,
            "checkpointing_steps": variant.steps(settings) + 1,
            "mixed_precision": "bf16" if bf16 else "no",
            "compile": bf16,
            "dataloader_num_workers": 1 if bf16 else 0,
        }
        | variant.options
        | ({"dataset_name": str(base.parent / OWN_SAMPLES)} if variant.own_samples else {})
    )
