"""Run two passes at the same points with the same random numbers, such as dropout masks."""

import torch

from ...conditions import Condition, VelocityFunction, concatenate
from ...models.known_times import known_times_twice
from ..rng_snapshot import RNGSnapshot


class PairedPasses:
    """Runs a velocity function at the same points with two signs or two conditions.

    The two passes run as one batch of twice the size. If a pass draws random numbers, the two halves would get different
    ones, so the passes then run one after the other, each from the same random state.

    Args:
        split: whether to always run the passes one after the other, which needs less memory.
    """

    def __init__(self, split: bool):
        self.split = split
        self._draws = False

    def __call__(
        self,
        velocity_function: VelocityFunction,
        x: torch.Tensor,
        t: torch.Tensor,
        signs: tuple[torch.Tensor, torch.Tensor],
        conditions: tuple[Condition, Condition],
        snapshot: RNGSnapshot,
        split: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the two passes.

        Args:
            velocity_function: the network.
            x: points, shape [N, ...].
            t: their times, which are also the target times, shape [N].
            signs, conditions: signs and conditions of the first and the second pass.
            snapshot: the random state from which both passes start. The current state does not change.
            split: whether to run the passes of this call one after the other.

        Returns:
            The velocities of the first and the second pass, each of shape [N, ...], in float32 or wider.
        """
        if not (split or self.split or self._draws):
            twice, doubled = t.repeat(2), x.repeat(2, *[1] * (x.ndim - 1))
            with snapshot.replay(), known_times_twice(len(t)):
                both = velocity_function(doubled, twice, twice, torch.cat(signs), concatenate(*conditions))
                self._draws = not snapshot.is_current()
            if not self._draws:
                first, second = at_least_float32(both).chunk(2)
                return first, second
        halves = []
        for sign, condition in zip(signs, conditions):
            with snapshot.replay():
                halves.append(at_least_float32(velocity_function(x, t, t, sign, condition)))
        return halves[0], halves[1]


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in float32, or in float64 if it is float64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
