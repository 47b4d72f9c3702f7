"""Skipping steps whose gradient is not finite, and losses by branch, without a host sync in a step."""

import torch

from .branches import Branch

BRANCHES = list(Branch)


class TrainingHealth:
    """Watches losses and gradients on the device; only `report` brings numbers to the host.

    Args:
        optimizer: one that skips its step where its `found_inf` is 1, as PyTorch's fused optimizers do.
        longest_run: how many steps may be skipped in a row.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, longest_run: int = 20):
        self.optimizer, self.longest_run = optimizer, longest_run
        self.skipped = torch.zeros((), device=device)
        self.run = torch.zeros((), device=device)
        self._start_interval(device)

    def _start_interval(self, device: torch.device) -> None:
        self.loss_sums = torch.zeros(len(BRANCHES), device=device)
        self.counts = [0] * len(BRANCHES)
        self.not_finite = torch.zeros(len(BRANCHES), device=device)

    def record_losses(self, per_sample: torch.Tensor, branches: list[Branch] | None) -> None:
        """Note the losses, shape [B], of one micro-batch; `branches` of flow matching is `None`."""
        codes = [BRANCHES.index(branch) for branch in branches or [Branch.MULTI_STEP] * len(per_sample)]
        for code in codes:
            self.counts[code] += 1
        index = torch.tensor(codes).to(per_sample.device, non_blocking=True)
        self.loss_sums.index_add_(0, index, per_sample)
        self.not_finite.index_add_(0, index, (~per_sample.isfinite()).float())

    def guard_step(self, grad_norm: torch.Tensor) -> None:
        """Have the optimizer skip the coming step where the gradient's norm is not finite, and count it."""
        is_bad = (~grad_norm.isfinite()).float().to(self.skipped.device)
        self.optimizer.found_inf = is_bad
        self.skipped += is_bad
        self.run = (self.run + is_bad) * is_bad

    def report(self) -> dict[str, float]:
        """Mean loss of each branch since the last report, and the steps skipped in the whole run.

        Raises:
            FloatingPointError: where more than `longest_run` steps in a row were skipped, naming the branches.
        """
        means = (self.loss_sums / torch.tensor(self.counts).clamp_min(1).to(self.loss_sums)).tolist()
        bad = [branch.value for branch, count in zip(BRANCHES, self.not_finite.tolist()) if count]
        run, skipped = int(self.run), int(self.skipped)
        if run > self.longest_run:
            raise FloatingPointError(
                f"{run} steps in a row had a gradient that is not finite (losses not finite in: "
                f"{', '.join(bad) or 'none, the gradient alone'}): lower learning_rate, train in bf16 rather than fp16, "
                "or resume from an earlier checkpoint."
            )
        report = {f"loss/{branch.value}": mean for branch, mean, n in zip(BRANCHES, means, self.counts) if n}
        self._start_interval(self.skipped.device)
        return report | {"skipped_steps": skipped}
