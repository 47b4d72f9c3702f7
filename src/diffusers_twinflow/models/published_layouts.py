"""Translate the tensor names of TwinFlow transformers that others published."""

from collections.abc import Iterable
from dataclasses import dataclass

from .modeling_twinflow import SECOND_EMBEDDER, SIGN
from .second_embedder import SECOND_EMBEDDERS

SIGN_SUFFIX = "time_sign_embed.weight"

SIMPLETUNER_SIGNS: dict[str, str] = {
    "AuraFlowTransformer2DModel": SIGN_SUFFIX,
    "ErnieImageTransformer2DModel": SIGN_SUFFIX,
    "Flux2Transformer2DModel": SIGN_SUFFIX,
    "FluxTransformer2DModel": SIGN_SUFFIX,
    "HiDreamImageTransformer2DModel": f"t_embedder.{SIGN_SUFFIX}",
    "Kandinsky5Transformer3DModel": f"time_embeddings.{SIGN_SUFFIX}",
    "Krea2Transformer2DModel": f"time_embed.{SIGN_SUFFIX}",
    "LongCatImageTransformer2DModel": f"time_embed.{SIGN_SUFFIX}",
    "QwenImageTransformer2DModel": f"time_text_embed.{SIGN_SUFFIX}",
    "SD3Transformer2DModel": SIGN_SUFFIX,
    "WanTransformer3DModel": f"condition_embedder.{SIGN_SUFFIX}",
    "ZImageTransformer2DModel": f"t_embedder.{SIGN_SUFFIX}",
}

PUBLISHED_CLASSES = frozenset({*SECOND_EMBEDDERS, *SIMPLETUNER_SIGNS})
"""The stock classes for which others publish transformers with a time conditioning."""


@dataclass(frozen=True)
class PublishedLayout:
    """How a published transformer names its time conditioning.

    Attributes:
        conditioning: the kind of time conditioning, one of `CONDITIONINGS`.
        there: prefix of the tensors' names in the published checkpoint.
        here: prefix of the tensors' names in this package.
    """

    conditioning: str
    there: str
    here: str

    def rename(self, key: str) -> str:
        """Translate the name of a tensor in the published checkpoint to its name in this package."""
        return self.here + key.removeprefix(self.there) if key.startswith(self.there) else key


def stock_class_name(class_name: str) -> str:
    """Return the stock class name of a config. The authors append `Wrapper` to it."""
    return class_name.removesuffix("Wrapper")


def published_layout(class_name: str, keys: Iterable[str]) -> PublishedLayout:
    """Return the layout of a published checkpoint, recognized by the names of its tensors.

    Args:
        class_name: name of the stock class.
        keys: names of the tensors in the checkpoint.

    Raises:
        ValueError: if the checkpoint has no conditioning that is known for this class.
    """
    keys = set(keys)
    rule = SECOND_EMBEDDERS.get(class_name)
    if rule is not None and any(key.startswith(f"{rule.checkpoint_name}.") for key in keys):
        return PublishedLayout(SECOND_EMBEDDER, f"{rule.checkpoint_name}.", "time_conditioning.embedder.")
    sign = SIMPLETUNER_SIGNS.get(class_name)
    if sign in keys:
        return PublishedLayout(SIGN, sign, f"time_conditioning.{SIGN_SUFFIX}")
    found = sorted(key for key in keys if key.endswith(SIGN_SUFFIX) and not key.startswith("time_conditioning."))
    if found:
        raise ValueError(
            f"'{found[0]}' is added at an unknown place of a {class_name}. Sign embeddings are supported for "
            f"{', '.join(SIMPLETUNER_SIGNS)}."
        )
    raise ValueError(
        f"it has no second embedder as the TwinFlow authors' {', '.join(SECOND_EMBEDDERS)} have, and no "
        f"{SIGN_SUFFIX} as SimpleTuner's have: load a stock or a converted transformer with from_pretrained."
    )
