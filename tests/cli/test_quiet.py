import logging
import warnings

import datasets
import diffusers
import transformers
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging as transformers_logging

from diffusers_twinflow.cli.quiet import IMPORTED_LATE, LIBRARIES, only_our_messages, quiet_libraries


def state():
    loggers = [logging.getLogger(name) for name in (*LIBRARIES, IMPORTED_LATE, "diffusers_twinflow")]
    bars = (
        diffusers_logging.is_progress_bar_enabled(),
        transformers_logging.is_progress_bar_enabled(),
        are_progress_bars_disabled(),
    )
    return (
        [(each.level, list(each.handlers), list(each.filters), each.propagate) for each in loggers],
        bars,
        list(warnings.filters),
    )


def speak():
    logging.getLogger("transformers.models").warning("install torchvision")
    logging.getLogger("torchao").warning("no library")
    diffusers_logging.get_logger("diffusers.pipelines").warning("deprecated")
    warnings.warn("theirs", FutureWarning, stacklevel=1)
    logging.getLogger("diffusers_twinflow.hub.loading").warning("the layers \x1b[2J are\nup to rounding")
    warnings.warn_explicit("ours", UserWarning, "x.py", 1, module="diffusers_twinflow.configuration")


def test_only_our_messages_are_shown_and_all_is_as_before(capsys):
    assert diffusers and transformers
    before = state()
    with only_our_messages():
        speak()
        assert not diffusers_logging.is_progress_bar_enabled() and not transformers_logging.is_progress_bar_enabled()
    assert state() == before
    assert capsys.readouterr().err.splitlines() == [
        r"warning: the layers \x1b[2J are up to rounding",
        "warning: ours",
    ]


def test_a_library_that_is_imported_later_and_sets_its_level_is_quiet_too(caplog):
    logger = logging.getLogger(IMPORTED_LATE)
    with only_our_messages():
        logger.setLevel(logging.WARNING)  # as DeepSpeed does when it is imported
        logger.warning("no GPU")
        logger.error("broken")
    logger.warning("no GPU later")
    assert [record.getMessage() for record in caplog.records] == ["broken", "no GPU later"]


def test_our_messages_are_rewritten(capsys):
    with only_our_messages(rewrite=str.upper):
        speak()
    assert capsys.readouterr().err.splitlines()[-1] == "warning: OURS"


def test_verbose_shows_the_libraries_too(caplog):
    with only_our_messages(verbose=True):
        logging.getLogger("torchao").warning("no library")
    assert "no library" in caplog.text


def test_bars_of_datasets_are_hidden_and_shown_again():
    for were_hidden in (False, True):
        (datasets.disable_progress_bars if were_hidden else datasets.enable_progress_bars)()
        with quiet_libraries(print):
            assert datasets.are_progress_bars_disabled()
        assert datasets.are_progress_bars_disabled() == were_hidden
    datasets.enable_progress_bars()
