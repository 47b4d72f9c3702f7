"""Skip steps whose gradient is not finite and collect losses per branch, without a host synchronization per step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from ..methods.base import LossOutput
from ..sharding import local_part

TOTAL = "loss"


class TrainingHealth:
    """Watches losses and gradients on the device.

    PyTorch's fused optimizers skip a step on the device. For any other optimizer, the host reads one value per step,
    because it must know whether to call `step`: `step` also counts on the host, as an `int` in bitsandbytes and as a tensor
    on the CPU in PyTorch. If only the update was undone on the device, the count of the next steps would be wrong.
    `torch.amp.GradScaler` reads the same value for these optimizers. Prodigy also reads its own sums in each step.

    Args:
        optimizer: the optimizer.
        branch_names, part_names: names from the method.
        longest_run: maximum number of steps in a row that may be skipped.
        decides: whether `guard_step` decides if a step is taken. Set it to `False` if `GradScaler` or DeepSpeed does.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        branch_names: Sequence[str] = (),
        part_names: Sequence[str] = (),
        longest_run: int = 20,
        decides: bool = True,
    ) -> None:
        self.names = [*branch_names, TOTAL, *part_names]
        self.branch_count = len(branch_names)
        self.optimizer: Any = optimizer  # fused optimizers have an attribute `found_inf` that their class lacks
        self.longest_run, self.decides = longest_run, decides
        self.skips_on_device = getattr(optimizer, "_step_supports_amp_scaling", False)
        self.skipped = torch.zeros((), device=device)
        self.run = torch.zeros((), device=device)
        self.columns = dict(zip(self.names, torch.arange(len(self.names), device=device).split(1)))
        self.known_run = ArrivedNumber(torch.device(device))
        self._start_interval()

    def _start_interval(self) -> None:
        """Reset the sums. Rows: sums of finite losses, their counts, counts of other losses. Columns: `names`."""
        self.sums = torch.zeros(3, len(self.names), device=self.skipped.device)

    def record(self, result: LossOutput) -> None:
        """Add the losses of one micro-batch. Losses of flow matching have no branches."""
        losses, columns = [result.loss.detach().reshape(1)], [self.columns[TOTAL]]
        for name, values in result.parts.items():
            losses.append(values)
            columns.append(self.columns[name].expand(len(values)))
        if result.branches is not None:
            losses.append(result.per_sample)
            columns.append(result.branches)
        loss = torch.cat(losses)
        is_finite = loss.isfinite()
        values = torch.stack([loss.nan_to_num(0, 0, 0).float(), is_finite.float(), (~is_finite).float()])
        self.sums.index_add_(1, torch.cat(columns), values)

    def guard_step(self, grad_norm: torch.Tensor) -> bool:
        """Count the next step as skipped if the gradient norm is not finite.

        Returns:
            Whether to call the optimizer's `step`. It is always `True` for a fused optimizer, which skips the step
            itself, and if something else decides.

        Raises:
            FloatingPointError: if more than `longest_run` steps in a row were skipped. The count reaches the host
                asynchronously, so the error can come some steps later.
        """
        is_bad = (~grad_norm.isfinite()).float().to(self.skipped.device)
        self.skipped += is_bad
        self.run = (self.run + is_bad) * is_bad
        if self.known_run.update(self.run) > self.longest_run:
            self._stop()
        if not self.decides:
            return True
        if self.skips_on_device:
            self.optimizer.found_inf = is_bad
            return True
        return not is_bad.item()

    def report(self, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums) -> dict[str, float]:
        """Return the mean losses since the last report, and the number of steps skipped in the whole run.

        Args:
            reduce: sums a tensor over all processes. All processes must call `report`.

        Raises:
            FloatingPointError: if more than `longest_run` steps in a row were skipped. The message names the branches.
        """
        if int(self.run) > self.longest_run:
            self._stop()
        sums, counts, _ = reduce(self.sums).tolist()
        means = {name: total / count for name, total, count in zip(self.names, sums, counts) if count}
        report = {name if name == TOTAL else f"{TOTAL}/{name}": mean for name, mean in means.items()}
        self._start_interval()
        return report | {"skipped_steps": int(self.skipped)}

    def check_end(self, steps: int) -> None:
        """Check at the end of a run that most steps were taken.

        Args:
            steps: number of steps of the run, including skipped ones.

        Raises:
            FloatingPointError: if most steps were skipped, so that the weights are hardly trained.
        """
        skipped = int(self.skipped)
        if 2 * skipped > steps:
            raise FloatingPointError(
                f"{skipped} of {steps} steps were skipped, because their gradient was not finite. The weights are hardly "
                "trained, so no result is written. Lower `learning_rate`, or train in bf16 instead of fp16."
            )

    def _stop(self) -> None:
        not_finite = self.sums[2, : self.branch_count].tolist()
        bad = ", ".join(name for name, count in zip(self.names, not_finite) if count)
        raise FloatingPointError(
            f"{int(self.run)} steps in a row had a gradient that is not finite (losses not finite in: "
            f"{bad or 'none, only the gradient'}). Lower `learning_rate`, train in bf16 instead of fp16, or resume from "
            "an earlier checkpoint."
        )


def check_finite(parameters: Sequence[torch.Tensor], step: int, accelerator: Accelerator) -> None:
    """Check that all weights are finite before they are saved. All processes must call it.

    Raises:
        FloatingPointError: if a weight is NaN or infinite in any process. It is raised in all processes.
    """
    bad = [(~local_part(parameter).isfinite()).any() for parameter in parameters]
    count = torch.stack(bad).sum().to(accelerator.device) if bad else torch.zeros((), device=accelerator.device)
    if accelerator.reduce(count.float(), reduction="sum") > 0:
        raise FloatingPointError(
            f"the trained weights are not finite at step {step}, so they are not saved. Resume from an earlier "
            "checkpoint with a lower `learning_rate`."
        )


class ArrivedNumber:
    """Copies a number from the device to the host asynchronously, so that nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.value = 0.0
        self.copy = torch.zeros((), pin_memory=device.type == "cuda")
        self.event = None if device.type == "cpu" else torch.Event(device)
        self.is_under_way = False

    def update(self, number: torch.Tensor) -> float:
        """Return the newest value that has arrived. If no copy is in progress, start one of `number`."""
        self._take()
        if not self.is_under_way:
            self.copy.copy_(number, non_blocking=True)
            if self.event is not None:
                self.event.record()
            self.is_under_way = True
            self._take()
        return self.value

    def _take(self) -> None:
        if self.is_under_way and (self.event is None or self.event.query()):
            self.value, self.is_under_way = float(self.copy.numpy()), False
