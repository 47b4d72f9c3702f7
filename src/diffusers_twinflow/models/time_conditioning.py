"""What a two-time, two-sign transformer needs besides its own timestep embedding."""

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn

FREQUENCY_DIM = 256
EMBEDDED_TIME_SCALE = 1000.0


class TimeConditioning(nn.Module):
    """Embeds the target time and the sign, to be added to a transformer's timestep embedding.

    The result is `(t - r) * target(r) + sign`, with times in [0, 1]. It vanishes at `r = t` on the real trajectory
    (sign +1, whose row is zero and has no gradient) and everywhere before training: the model is the stock one there.

    Args:
        embedding_dim: width of the transformer's timestep embedding.
        timestep_scale: value of the transformer's own `timestep` at pure noise, such as 1000.
    """

    def __init__(self, embedding_dim: int, timestep_scale: float = 1000.0):
        super().__init__()
        self.timestep_scale = timestep_scale
        self.time_proj = Timesteps(FREQUENCY_DIM, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.target_timestep_embedder = TimestepEmbedding(FREQUENCY_DIM, embedding_dim)
        self.time_sign_embed = nn.Embedding(2, embedding_dim, padding_idx=0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as no conditioning at all."""
        self.target_timestep_embedder.linear_1.reset_parameters()
        nn.init.zeros_(self.target_timestep_embedder.linear_2.weight)
        nn.init.zeros_(self.target_timestep_embedder.linear_2.bias)
        nn.init.zeros_(self.time_sign_embed.weight)

    def forward(
        self, timestep: torch.Tensor, target_timestep: torch.Tensor | None, timestep_sign: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Args:
            timestep: shape [B], in the transformer's own unit.
            target_timestep: shape [B] or one for all, same unit; `None` is the timestep itself.
            timestep_sign: shape [B] or one for all, +1 or -1; `None` is +1.

        Returns:
            shape [B, embedding_dim].
        """
        dtype = self.time_sign_embed.weight.dtype
        embedding = 0.0
        if target_timestep is not None:
            target = (target_timestep / self.timestep_scale).expand_as(timestep)
            gap = timestep / self.timestep_scale - target
            frequencies = self.time_proj(target * EMBEDDED_TIME_SCALE).to(dtype)
            embedding = gap.unsqueeze(-1).to(dtype) * self.target_timestep_embedder(frequencies)
        if timestep_sign is not None:
            embedding = embedding + self.time_sign_embed((timestep_sign.expand_as(timestep) < 0).long())
        return embedding
