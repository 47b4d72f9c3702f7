"""The tables of classes in docs/models.md, from the package's table and what the tests know of the classes.

Run it to write the page anew: `python -m tests.models.matrix`.
"""

from pathlib import Path

import torch

from diffusers_twinflow.models import twinflow_class_of
from diffusers_twinflow.models.published_layouts import SIMPLETUNER_SIGNS
from diffusers_twinflow.models.second_embedder import SECOND_EMBEDDERS
from diffusers_twinflow.models.target_folding import why_not_foldable
from diffusers_twinflow.models.timestep_embedders import REFUSED, TIMESTEP_EMBEDDERS, TimestepEmbedders, takes_target
from docs.marked_parts import fill, table
from tests.models.stock import STOCK, Stock
from tests.models.stock.spec import stock_class

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "models.md"
COLUMNS = (
    "class",
    "timestep at noise → data",
    "target time",
    "portable",
    "backward",
    "gradient checkpointing",
    "compile",
    "LoRA",
    "`device_map`",
    "sequential offload",
    "published",
)


def matrix() -> str:
    """One row per class."""
    rows = [row(name, TIMESTEP_EMBEDDERS[name], STOCK[name]) for name in sorted(STOCK)]
    return table(COLUMNS, rows)


def row(name: str, rule: TimestepEmbedders, stock: Stock) -> list[str]:
    cls = stock_class(name)
    checkpointing = cls._supports_gradient_checkpointing and not stock.checkpointing_broken
    return [
        name,
        f"{rule.at_noise:g} → {rule.at_data:g}" + (f", times `{rule.config_scale}`" if rule.config_scale else ""),
        target_time(rule),
        portable(name, stock),
        "yes" if stock.backward_on_cpu else "on CUDA only",
        "yes" if checkpointing else "no",
        compiled(stock),
        "yes" if hasattr(cls, "add_adapter") else "with TwinFlow",
        "yes" if cls._no_split_modules else "no",
        f"no: {stock.not_offloaded}" if stock.not_offloaded else "yes",
        ", ".join(published(name)) or "-",
    ]


def compiled(stock: Stock) -> str:
    if stock.not_compiled:
        return f"no: {stock.not_compiled}"
    if stock.not_compiled_by:
        return f"yes, except with torch {stock.not_compiled_by}"
    return f"forward only: {stock.backward_not_compiled}" if stock.backward_not_compiled else "yes"


def target_time(rule: TimestepEmbedders) -> str:
    if rule.native_target is None:
        return "added"
    own = f"stock argument `{rule.native_target.argument}`"
    return f"{own} with `{rule.native_target.config_key}`, else added" if rule.native_target.config_key else own


def portable(name: str, stock: Stock) -> str:
    """Whether stock weights can carry the target time, and the reason if not."""
    cls = twinflow_class_of(stock_class(name))
    with torch.device("meta"):
        model = cls(**stock.config)
    if takes_target(model):
        return "if the stock pipeline passes the target time"
    reason = why_not_foldable(cls, model, cls.conditioning_of(model))
    if reason is not None:
        return f"no: {reason}"
    native = cls._timestep_embedders.native_target
    return f"yes, with `{native.config_key}` if the stock pipeline passes the target time" if native else "yes"


def published(name: str) -> list[str]:
    return ["authors"] * (name in SECOND_EMBEDDERS) + ["SimpleTuner"] * (name in SIMPLETUNER_SIGNS)


def refused() -> str:
    return "\n".join(f"- `{name}`: {reason}." for name, reason in REFUSED.items())


def summary() -> str:
    """A table with the number of classes that pass each check."""
    count, compiling = len(STOCK), sum(not stock.not_compiled for stock in STOCK.values())
    on_cuda = sum(not stock.backward_on_cpu for stock in STOCK.values())
    cells = {
        "off: the stock model bit for bit": count,
        "on and untrained: the stock output": count,
        "forward and backward, sign and target": f"{count}, {on_cuda} of them backward on CUDA only",
        "saved and loaded": count,
        "compiled as one graph": f"{compiling}; the other {count - compiling} stock classes do not either",
        "LoRA": count,
    }
    return table((f"of {count} transformer classes", "pass"), ((what, str(passed)) for what, passed in cells.items()))


def pages() -> dict[Path, str]:
    """The page as it should be."""
    page = PAGE.read_text(encoding="utf-8")
    for name, content in {"summary": summary(), "matrix": matrix(), "refused": refused()}.items():
        page = fill(page, name, content)
    return {PAGE: page}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
