"""The time conditioning of the TwinFlow authors' checkpoints: a second timestep embedder next to the model's."""

from collections.abc import Callable
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
        path: the stock module that embeds the timestep, including pooled text and modulation if it has them.
        checkpoint_name: name of the second embedder in the authors' checkpoints.
        gap_unit: divisor of the gap between the two times.
        embeds_gap: whether the second embedder gets the gap instead of the target, and times are reversed.
        rows: as in `TimestepEmbedders`.
        call: as in `TimestepEmbedders`.
        of_time: calls the second embedder with times alone. `None` if its output depends on the prompt too, or if it
            is more than a timestep embedding.
    """

    path: str
    checkpoint_name: str
    gap_unit: float = 1.0
    embeds_gap: bool = False
    rows: str = "repeat"
    call: int | None = None
    of_time: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None


def _with_dtype_of(embedder: nn.Module, times: torch.Tensor) -> torch.Tensor:
    """Call an embedder that also takes hidden states, of which it only reads the dtype."""
    return embedder(times, next(embedder.parameters()))


SECOND_EMBEDDERS: dict[str, SecondEmbedderRule] = {
    "QwenImageTransformer2DModel": SecondEmbedderRule(
        "time_text_embed", "time_text_embed_2", rows="first", of_time=_with_dtype_of
    ),
    "SD3Transformer2DModel": SecondEmbedderRule("time_text_embed", "time_text_embed_2", gap_unit=1000.0),
    "SanaTransformer2DModel": SecondEmbedderRule("time_embed", "time_embed_2", gap_unit=1000.0),
    "ZImageTransformer2DModel": SecondEmbedderRule(
        "t_embedder", "t_embedder_2", embeds_gap=True, call=0, of_time=nn.Module.__call__
    ),
}


class SecondEmbedder(nn.Module):
    """Embeds two times and a sign as the authors' checkpoints do, in which the twin's times are negative.

    The model's embedder `e` gets the time `sign * t`, and the second embedder `e2` the target `sign * r`. The result is
    `e(sign * t) + sign * (t - r) * e2(sign * r)`.

    If the rule says `embeds_gap`, let `tau = sign * (1 - t)` for a time `t` in [0, 1], and `tau = 0` at `t = 0`. The
    result is then `e(|tau_t|) + |tau_t - tau_r| * e2(tau_r - tau_t)`, computed in float64. At `r = t` nothing is added.

    Args:
        transformer: the model to create the conditioning for.
        rule: how this class combines the two embedders.
        at_noise, at_data: the transformer's timesteps at noise and at data.
    """

    def __init__(self, transformer: ModelMixin, rule: SecondEmbedderRule, at_noise: float, at_data: float) -> None:
        super().__init__()
        self.rule = rule
        self.at_noise, self.at_data = at_noise, at_data
        self.scale = transformer.t_scale if rule.embeds_gap else 1.0
        self.embedder = deepcopy(transformer.get_submodule(rule.path))

    def stock_timestep(self, timestep: torch.Tensor, timestep_sign: torch.Tensor | None) -> torch.Tensor:
        """Return the input of the model's embedder for a timestep and its sign."""
        signed = self.signed(timestep, timestep_sign)
        return (signed.abs() if self.rule.embeds_gap else signed).to(timestep.dtype)

    def forward(
        self, timestep: torch.Tensor, target_timestep: torch.Tensor | None, timestep_sign: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the input of the second embedder and the factor of its output.

        Args:
            timestep: shape [B], in the transformer's unit.
            target_timestep: shape [B] or [1], same unit; `None` means `timestep`.
            timestep_sign: shape [B] or [1], +1 or -1; `None` means +1.

        Returns:
            Input and factor, both of shape [B].
        """
        target = timestep if target_timestep is None else target_timestep.expand_as(timestep)
        t, r = self.signed(timestep, timestep_sign), self.signed(target, timestep_sign)
        if self.rule.embeds_gap:
            return (r - t) * self.scale, (t - r).abs()
        return r, (t - r) / self.rule.gap_unit

    def additions(self, timestep: torch.Tensor, target_timestep: torch.Tensor) -> torch.Tensor:
        """Return what is added to the timestep embedding on the real trajectory, of shape [B, width].

        Args:
            timestep, target_timestep: shape [B], in the transformer's unit.

        Raises:
            ValueError: if it depends on more than the times, see `SecondEmbedderRule.of_time`.
        """
        if self.rule.of_time is None:
            raise ValueError("The second embedder's output depends on more than the times, so it cannot be computed.")
        inputs, gaps = self(timestep, target_timestep, None)
        return self.rule.of_time(self.embedder, inputs) * gaps.unsqueeze(-1)

    def signed(self, timestep: torch.Tensor, timestep_sign: torch.Tensor | None) -> torch.Tensor:
        """Return timesteps in the authors' convention, negative for the twin."""
        if self.rule.embeds_gap:
            wide = torch.float32 if timestep.device.type == "mps" else torch.float64  # a Mac's GPU has no float64
            timestep = torch.where(timestep == 1, 0, timestep).to(wide)
        return timestep if timestep_sign is None else timestep * timestep_sign.to(timestep).sign()


class AddSecondEmbedding:
    """Forward hook on the model's embedder that adds the output of the second embedder."""

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
