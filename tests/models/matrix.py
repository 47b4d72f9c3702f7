"""The table of docs/models.md, from the package's table and from what the tests here know of the stock classes.

Run it to write the page anew: `python tests/models/matrix.py`.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from stock import STOCK, Stock
from stock.spec import stock_class

from diffusers_twinflow.models.published_layouts import SIMPLETUNER_SIGNS
from diffusers_twinflow.models.second_embedder import SECOND_EMBEDDERS
from diffusers_twinflow.models.timestep_embedders import REFUSED, TIMESTEP_EMBEDDERS, TimestepEmbedders

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
COLUMNS = (
    "class",
    "timestep at noise → data",
    "target time",
    "backward",
    "gradient checkpointing",
    "compile",
    "LoRA",
    "`device_map`",
    "sequential offload",
    "published",
)
ALIGNED = "|".join(["---"] * len(COLUMNS))


def matrix() -> str:
    """One row a class."""
    rows = [row(name, TIMESTEP_EMBEDDERS[name], STOCK[name]) for name in sorted(STOCK)]
    return "\n".join([f"| {' | '.join(COLUMNS)} |", f"|{ALIGNED}|", *(f"| {' | '.join(cells)} |" for cells in rows)])


def row(name: str, rule: TimestepEmbedders, stock: Stock) -> list[str]:
    cls = stock_class(name)
    checkpointing = cls._supports_gradient_checkpointing and not stock.checkpointing_broken
    return [
        name,
        f"{rule.at_noise:g} → {rule.at_data:g}" + (f", times `{rule.config_scale}`" if rule.config_scale else ""),
        target_time(rule),
        "yes" if stock.backward_on_cpu else "on CUDA",
        "yes" if checkpointing else "no",
        f"no: {stock.not_compiled}" if stock.not_compiled else "yes",
        "yes" if hasattr(cls, "add_adapter") else "with TwinFlow",
        "yes" if cls._no_split_modules else "no",
        f"no: {stock.not_offloaded}" if stock.not_offloaded else "yes",
        ", ".join(published(name)) or "-",
    ]


def target_time(rule: TimestepEmbedders) -> str:
    if rule.native_target is None:
        return "added"
    own = f"its `{rule.native_target.argument}`"
    return f"{own} with `{rule.native_target.config_key}`, else added" if rule.native_target.config_key else own


def published(name: str) -> list[str]:
    return ["authors"] * (name in SECOND_EMBEDDERS) + ["SimpleTuner"] * (name in SIMPLETUNER_SIGNS)


def refused() -> str:
    return "\n".join(f"- `{name}`: {reason}." for name, reason in REFUSED.items())


def fill(page: str) -> str:
    """The page with its two generated parts replaced."""
    for part, text in (("matrix", matrix()), ("refused", refused())):
        page, count = re.subn(
            f"(<!-- {part} -->\n).*?(<!-- end -->)",
            lambda found, text=text: f"{found[1]}{text}\n{found[2]}",
            page,
            flags=re.S,
        )
        if count != 1:
            raise ValueError(f"{PAGE.name} has {count} places for '{part}'.")
    return page


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text()))
