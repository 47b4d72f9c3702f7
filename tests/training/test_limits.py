import os
import re

import pytest

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.training.arguments import TrainingArguments
from diffusers_twinflow.training.limits import MOST_COPIES, check_batch, check_memory, check_output_dir
from diffusers_twinflow.training.run_folder import RunFolder


def arguments(**changes):
    return TrainingArguments(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 10**6}, "resolution=1000000 needs 1.12e.04 GiB for its pixels.*smaller size"),
        ({"num_frames": 10**7}, "num_frames=10000000"),
    ],
    ids=str,
)
def test_what_cannot_fit_is_refused(changes, message):
    check_memory(arguments())
    with pytest.raises(TwinFlowConfigError, match=message):
        check_memory(arguments(**changes))


def test_a_batch_that_is_far_larger_than_the_data_is_refused():
    with pytest.raises(TwinFlowConfigError, match="train_batch_size=1000000 is 250,000 times the 4 samples"):
        check_batch(arguments(train_batch_size=10**6), samples=4, processes=1)
    check_batch(arguments(train_batch_size=4 * MOST_COPIES), samples=4, processes=1)


@pytest.mark.parametrize(
    ("batch_size", "processes", "message"),
    [
        (4, 1, None),
        (2, 2, None),
        (6, 1, r"a process takes 6 samples at a time \(`train_batch_size` 6 per process\).*only 4.*1.5 times"),
        (4, 2, "2 processes take 8 samples at a time .*`train_batch_size` 4 per process.*2.0 times"),
    ],
)
def test_samples_that_repeat_in_a_pass_are_a_warning(batch_size, processes, message):
    warning = check_batch(arguments(train_batch_size=batch_size), samples=4, processes=processes)
    assert warning is None if message is None else re.search(message, warning)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    check_output_dir(str(tmp_path / "new" / "folder"))
    for path in (file, file / "out"):
        with pytest.raises(TwinFlowConfigError, match="output_dir=.*is a file"):
            check_output_dir(str(path))
    with pytest.raises(TwinFlowConfigError, match="output_dir=.* is not a valid path"):
        check_output_dir("x" * 300)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder in which nothing can be created")
def test_a_folder_that_cannot_be_created_is_refused():
    with pytest.raises(TwinFlowConfigError, match="output_dir='/proc/x/out' cannot .*created .*another folder"):
        RunFolder("/proc/x/out")
