"""What the tests of the page on quality read from its files of results."""

from test_figures import results


class QualityRows:
    """The rows of one file."""

    def __init__(self, name: str):
        self.report = results(name)
        self.variants = {variant["name"]: variant for variant in self.report["variants"]}

    def few(self, name: str, style: str = "few") -> dict[int, dict]:
        """The rows of a variant by steps."""
        return {row["steps"]: row for row in self.variants[name]["rows"] if row["style"] == style}

    def base(self, scheduler: str, steps: int, guidance: float = 3) -> dict:
        wanted = (scheduler, steps, guidance)
        (row,) = (r for r in self.report["base"] if (r["scheduler"], r["steps"], r["guidance_scale"]) == wanted)
        return row


def distance(row: dict) -> str:
    return f"{row['frechet_distance']:.1f}"


def held_out(row: dict) -> str:
    return f"{row['held_out_agreement']:.1%}"


def diversity(row: dict) -> str:
    return f"{row['diversity']:.1f}"


def aim(ratios: list[float], bound: float) -> str:
    """What the page says of an aim."""
    reached = "reached" if max(ratios) <= bound else "missed"
    return f"{' and '.join(f'{ratio:.2f}' for ratio in ratios)} times: {reached}"
