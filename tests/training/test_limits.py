import os

import pytest

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.training.arguments import TrainingArguments
from diffusers_twinflow.training.limits import check_memory, check_output_dir
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
