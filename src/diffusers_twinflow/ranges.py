"""The allowed values of numeric options."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """An interval of numbers. NaN and the infinities are in no range.

    Args:
        least: the smallest value allowed.
        most: the largest value allowed.
        above: values must be larger than this.
        below: values must be smaller than this.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        low = f"{self.least} or more" if self.least is not None else f"above {self.above}"
        high = f"at most {self.most}" if self.most is not None else f"below {self.below}"
        has_low = self.least is not None or self.above is not None
        has_high = self.most is not None or self.below is not None
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}"
        return " and ".join([low] * has_low + [high] * has_high) or "a finite number"


FINITE = Range()
POSITIVE = Range(above=0)
NOT_NEGATIVE = Range(least=0)
AT_LEAST_1 = Range(least=1)
SHARE = Range(least=0, most=1)
