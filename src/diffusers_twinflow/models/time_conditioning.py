"""The module that embeds the target time and the sign of a TwinFlow transformer."""

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn

FREQUENCY_DIM = 256
EMBEDDED_TIME_SCALE = 1000.0


class TimeConditioning(nn.Module):
    """Embeds the target time and the sign. The result is added to a transformer's timestep embedding.

    The result is `(t - r) * target(r) + sign`, with times in [0, 1] and 1 at noise. It is zero before training. After
    training it is still zero at `r = t` on the real trajectory, because the row of sign +1 is zero and has no gradient.
    The model then equals the stock model.

    Args:
        embedding_dim: width of the transformer's timestep embedding, or the total width if there are several.
        at_noise: the transformer's `timestep` at pure noise.
        at_data: the transformer's `timestep` at data.
        hidden_dim: width inside the target embedder; defaults to `embedding_dim`.
        embeds_target: whether to embed the target time. Set it to false if the stock transformer does so itself; then
            only the sign is embedded.
    """

    target_timestep_embedder: TimestepEmbedding | None

    def __init__(
        self,
        embedding_dim: int,
        at_noise: float = 1000.0,
        at_data: float = 0.0,
        *,
        hidden_dim: int | None = None,
        embeds_target: bool = True,
    ) -> None:
        super().__init__()
        self.at_noise = at_noise
        self.at_data = at_data
        if embeds_target:
            self.time_proj = Timesteps(FREQUENCY_DIM, flip_sin_to_cos=True, downscale_freq_shift=0)
            self.target_timestep_embedder = TimestepEmbedding(
                FREQUENCY_DIM, hidden_dim or embedding_dim, out_dim=embedding_dim
            )
        else:
            self.target_timestep_embedder = None
        self.time_sign_embed = nn.Embedding(2, embedding_dim, padding_idx=0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset to the untrained state, in which nothing is added."""
        if self.target_timestep_embedder is not None:
            self.target_timestep_embedder.linear_1.reset_parameters()
            nn.init.zeros_(self.target_timestep_embedder.linear_2.weight)
            nn.init.zeros_(self.target_timestep_embedder.linear_2.bias)
        nn.init.zeros_(self.time_sign_embed.weight)

    def forward(
        self, timestep: torch.Tensor, target_timestep: torch.Tensor | None, timestep_sign: torch.Tensor | None
    ) -> torch.Tensor:
        """Return what to add to the timestep embedding.

        Args:
            timestep: shape [B], in the transformer's unit.
            target_timestep: shape [B] or [1], same unit; `None` means `timestep`.
            timestep_sign: shape [B] or [1], +1 or -1; `None` means +1.

        Returns:
            Tensor of shape [B, embedding_dim].
        """
        dtype, width = self.time_sign_embed.weight.dtype, self.time_sign_embed.weight.shape[1]
        sign = None
        if timestep_sign is not None:
            sign = self.time_sign_embed((timestep_sign.expand_as(timestep) < 0).long())
        if target_timestep is None or self.target_timestep_embedder is None:
            return torch.zeros(*timestep.shape, width, dtype=dtype, device=timestep.device) if sign is None else sign
        target = self.noise_time(target_timestep).expand_as(timestep)
        gap = self.noise_time(timestep) - target
        frequencies = self.time_proj(target * EMBEDDED_TIME_SCALE).to(dtype)
        jump = gap.unsqueeze(-1).to(dtype) * self.target_timestep_embedder(frequencies)
        return jump if sign is None else sign + jump

    def additions(self, timestep: torch.Tensor, target_timestep: torch.Tensor) -> torch.Tensor:
        """Return what is added to the timestep embedding on the real trajectory, of shape [B, embedding_dim].

        Args:
            timestep, target_timestep: shape [B], in the transformer's unit.
        """
        return self(timestep, target_timestep, None)

    def stock_timestep(self, timestep: torch.Tensor, timestep_sign: torch.Tensor | None) -> torch.Tensor:
        """Return the input of the model's embedder, which is the timestep for both signs."""
        return timestep

    def noise_time(self, timestep: torch.Tensor) -> torch.Tensor:
        """Convert timesteps in the transformer's unit to times in [0, 1] with 1 at noise."""
        return noise_time(timestep, self.at_noise, self.at_data)


def noise_time(timestep: torch.Tensor, at_noise: float, at_data: float) -> torch.Tensor:
    """Convert timesteps in a transformer's unit to times in [0, 1] with 1 at noise, in float32 or wider."""
    timestep = timestep.to(torch.promote_types(timestep.dtype, torch.float32))
    return (timestep - at_data if at_data else timestep) / (at_noise - at_data)
