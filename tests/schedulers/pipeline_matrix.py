"""The table of pipelines without a written family in docs/base_models.md, from what the tests find.

Run it to write the page anew: `python -m tests.schedulers.pipeline_matrix`.
"""

import re
from pathlib import Path

from diffusers_twinflow.families import Family
from diffusers_twinflow.families.registry import CLASSES, family_of_pipeline_class
from docs.marked_parts import fill, table
from tests.schedulers import captured_pipelines as found
from tests.schedulers.captured_pipelines import Captured
from tests.schedulers.stock_pipelines import PIPELINES, VARIANTS

PAGE = Path(__file__).parents[2] / "docs" / "base_models.md"
COLUMNS = ("pipeline", "trains with")
NEEDS_MORE = "no: its call needs an image, a video or a sound"
WHY = {
    found.ENCODED_IMAGE: "it mixes an image with noise",
    found.SEVERAL_TIMES: "its model takes several times per sample",
    found.FURTHER_TIME: "its model takes several times per sample",
    found.KEPT: "it keeps a part of its sample",
    found.NOISY: "another input of its model changes with the noise",
    found.MIXED: "it starts from a noised image",
    found.PARTS: "its model, scheduler and autoencoder take different samples",
    found.SOUND: "it generates sound",
    "kv_caches": "it keeps a cache between calls",
    "`x` is a list": "it mixes images and samples in one input",
    "for one prompt": "it always evaluates the empty prompt too",
    "at noise level 1": "it starts from the video that it edits",
    "predicts the image": "its model predicts the image",
    "in sections": "it generates a video in sections",
    "do not depend": "it keeps a part of the image",
}


def why_not(pattern: str) -> str:
    return next(reason for key, reason in WHY.items() if key in pattern)


def rows() -> list[tuple[str, str]]:
    """One row a stock pipeline without a written family."""
    written = {classes.pipeline for classes in CLASSES.values()}
    answers: dict[str, str] = {}
    for contract in {**PIPELINES, **VARIANTS}:
        captured = Captured(contract)
        name = captured.family.name
        if name in written:
            continue
        family = family_of_pipeline_class(name)
        if family is not None and family.name != name:
            answers[name] = f"as `{family.name}`"
        else:
            answers[name] = answer_for(contract, captured)
    return [(f"`{name}`", answers[name]) for name in sorted(answers)]


def answer_for(contract: str, captured: Captured) -> str:
    if contract in found.CANNOT_BE_CAPTURED:
        return "no: " + why_not(found.CANNOT_BE_CAPTURED[contract])
    family = captured.family
    if contract in found.TRAINED and family.takes_reference_image:
        return f"{kind_of(family)} with a reference image"
    if found.CANNOT_BE_DECODED.get(contract) == found.SOUND:
        return "no: " + why_not(found.SOUND)
    if contract in found.CANNOT_BE_DECODED and family.takes_reference_image:
        return "no: " + why_not(found.CANNOT_BE_DECODED[contract])
    if contract in found.WITHOUT_A_PROMPT or not draws_from_prompts(captured):
        return NEEDS_MORE
    if contract in found.CANNOT_BE_DECODED:
        return "prompts: " + why_not(found.CANNOT_BE_DECODED[contract])
    return f"{kind_of(family)} or prompts"


def kind_of(family: Family) -> str:
    """What samples of a family are."""
    if family.sound_frame_rate is not None:
        return "videos with sound,"
    return "videos" if family.draws_videos else "images"


def draws_from_prompts(captured: Captured) -> bool:
    media = "image(?!_guid|s_per)|video(?!s_per)|audio(?!_guid|_stg|_mod)|mask_image|controls$"
    others = [key for key in captured.call if re.search(media, key)]
    return not others and "height" in captured.family.parameters and "Edit" not in captured.family.name


def pages() -> dict[Path, str]:
    """The page as it should be."""
    return {PAGE: fill(PAGE.read_text(encoding="utf-8"), "pipelines", table(COLUMNS, rows()))}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
