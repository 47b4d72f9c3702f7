"""The conditioning of the TwinFlow authors' own checkpoints: a second embedder beside the model's."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from .embedding_hook import CallState, add_rows


@dataclass(frozen=True)
class SecondEmbedderRule:
    """How the authors combine the two embedders of one class.

    Attributes:
        path: the stock module that embeds the timestep, pooled text and modulation included where it has them.
        checkpoint_name: what the second one is called in their checkpoints.
        gap_unit: what the gap between the two times is divided by.
        embeds_gap: the second embedder is given the gap rather than the target, and the times are the reversed ones.
        rows: as in `TimestepEmbedders`.
        call: as in `TimestepEmbedders`.
    """

    path: str
    checkpoint_name: str
    gap_unit: float = 1.0
    embeds_gap: bool = False
    rows: str = "repeat"
    call: int | None = None


SECOND_EMBEDDERS: dict[str, SecondEmbedderRule] = {
    "QwenImageTransformer2DModel": SecondEmbedderRule("time_text_embed", "time_text_embed_2", rows="first"),
    "SD3Transformer2DModel": SecondEmbedderRule("time_text_embed", "time_text_embed_2", gap_unit=1000.0),
    "SanaTransformer2DModel": SecondEmbedderRule("time_embed", "time_embed_2", gap_unit=1000.0),
    "ZImageTransformer2DModel": SecondEmbedderRule("t_embedder", "t_embedder_2", embeds_gap=True, call=0),
}


class SecondEmbedder(nn.Module):
    """Two times and a sign as the authors' checkpoints take them: the twin's times are negative numbers.

    The model's own embedder gets `sign * t`. What a copy of it makes of `sign * r` is added to its output, times
    `sign * (t - r)`. Z-Image: with `tau = sign * (1 - t)` for a time `t` in [0, 1] but 0 at `t = 0`, its own embedder
    gets `|tau_t|`, and what the copy makes of `tau_r - tau_t` is added times `|tau_t - tau_r|`, in float64.
    At `r = t` nothing is added.

    Args:
        transformer: the model that it is made for.
        rule: how this class combines them.
    """

    def __init__(self, transformer: ModelMixin, rule: SecondEmbedderRule) -> None:
        super().__init__()
        self.rule = rule
        self.scale = transformer.t_scale if rule.embeds_gap else 1.0
        self.embedder = deepcopy(transformer.get_submodule(rule.path))

    def stock_timestep(self, timestep: torch.Tensor, timestep_sign: torch.Tensor | None) -> torch.Tensor:
        """What the model's own embedder gets for a timestep and its sign."""
        signed = self.signed(timestep, timestep_sign)
        return (signed.abs() if self.rule.embeds_gap else signed).to(timestep.dtype)

    def forward(
        self, timestep: torch.Tensor, target_timestep: torch.Tensor | None, timestep_sign: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            timestep: shape [B], in the transformer's own unit.
            target_timestep: shape [B] or one for all, same unit; `None` is the timestep itself.
            timestep_sign: shape [B] or one for all, +1 or -1; `None` is +1.

        Returns:
            what the second embedder is given and what its output is multiplied by, both of shape [B].
        """
        target = timestep if target_timestep is None else target_timestep.expand_as(timestep)
        t, r = self.signed(timestep, timestep_sign), self.signed(target, timestep_sign)
        if self.rule.embeds_gap:
            return (r - t) * self.scale, (t - r).abs()
        return r, (t - r) / self.rule.gap_unit

    def signed(self, timestep: torch.Tensor, timestep_sign: torch.Tensor | None) -> torch.Tensor:
        """Timesteps as the authors write them, negative for the twin."""
        if self.rule.embeds_gap:
            timestep = torch.where(timestep == 1, 0, timestep).double()
        return timestep if timestep_sign is None else timestep * timestep_sign.to(timestep).sign()


class AddSecondEmbedding:
    """Forward hook on the model's own embedder that adds what the second one gives in the call in progress."""

    def __init__(self, state: CallState, rule: SecondEmbedderRule) -> None:
        self.state = state
        self.rule = rule

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        additions = self.state.additions
        tensors = additions.for_call_of(0)
        if tensors is None:
            return output
        times, gaps = tensors
        second = cast(SecondEmbedder, additions.conditioning).embedder(times, *args[1:], **kwargs)
        if isinstance(output, tuple):
            return tuple(self.add(own, more, gaps) for own, more in zip(output, second))
        return self.add(output, second, gaps)

    def add(self, output: torch.Tensor, second: torch.Tensor, gaps: torch.Tensor) -> torch.Tensor:
        return add_rows(output, second * gaps.unsqueeze(-1), self.rule.rows)
