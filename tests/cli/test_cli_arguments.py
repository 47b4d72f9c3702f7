"""Arguments that are refused before anything is loaded. None of these adapters exists."""

import os

import pytest

from diffusers_twinflow.cli import main
from diffusers_twinflow.cli.shared_arguments import check_output
from diffusers_twinflow.configuration import TwinFlowConfigError


def error_of(capsys, *arguments) -> str:
    assert main([*map(str, arguments), "--adapter", "no/such/place"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize("command", ["generate", "compare", "demo"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", -1], "--seed must be a whole number from 0 to 4294967295, but it is -1"),
        (["--seed", 10**30], "--seed must be a whole number from 0 to 4294967295"),
        (["--height", 0], "--height=0 must be 1 or more"),
        (["--width", -64], "--width=-64 must be 1 or more"),
        (["--num_frames", 0], "--num_frames=0 must be 1 or more"),
    ],
)
def test_numbers_out_of_range(command, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(capsys, command, *(["a"] if command != "demo" else []), *arguments)


@pytest.mark.parametrize(
    ("command", "flag", "steps"),
    [("generate", "steps", 0), ("generate", "steps", 1001), ("compare", "steps", -1), ("compare", "base_steps", 0)],
)
def test_step_counts(command, flag, steps, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"--{flag}={steps} is not valid: use 1 to 1000 steps" in error_of(capsys, command, "a", f"--{flag}", steps)


@pytest.mark.parametrize("command", ["generate", "compare"])
def test_an_output_that_cannot_be_written(command, capsys, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for out, message in [
        (tmp_path / "x.txt", "must end in .png"),
        (tmp_path / "file" / "x.png", "/file' is a file)"),
        (tmp_path / "file" / "folder" / "x.png", "cannot be written (Not a directory)"),
        (tmp_path / "folder.png", "cannot be written (Is a directory"),
        (tmp_path / f"{'x' * 300}.png", "cannot be written (File name too long"),
        ("/proc/x.png", "cannot be written (No such file"),
    ]:
        assert message in error_of(capsys, command, "a", "--out", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


def test_checking_an_output_leaves_no_file_and_keeps_what_is_there(tmp_path):
    (tmp_path / "out-2.png").write_bytes(b"old")
    paths = check_output(str(tmp_path / "out.png"), count=3)
    assert [path.name for path in paths] == ["out-1.png", "out-2.png", "out-3.png"]
    assert (tmp_path / "out-2.png").read_bytes() == b"old" and len(os.listdir(tmp_path)) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into every folder")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(TwinFlowConfigError, match="Permission denied"):
        check_output(str(tmp_path / "x.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--ranks", "3"], "unknown option '--ranks'. Did you mean '--rank'?"),
        (["train", "--rank", "abc"], "--rank: 'abc' is not valid: it must be a whole number."),
        (["train", "--lr_scheduler", "x"], "--lr_scheduler: 'x' is not valid: it must be one of linear"),
        (["train", "recipe.json"], "unexpected argument 'recipe.json'"),
        (["generate", "a", "--adapter", "x", "--seed", "x"], "--seed: 'x' is not valid: it must be a whole number."),
        (
            ["compare", "a", "--adapter", "x", "--base_guidance", "x"],
            "--base_guidance: 'x' is not valid: it must be a ",
        ),
        (["evaluate", "x", "--promts", "y"], "unknown option '--promts'. Did you mean '--prompts'?"),
        (["generate", "a", "--adapter", "x", "--output", "y"], "unknown option '--output'. Did you mean '--out'?"),
        (["train", "--learn", "1e-4"], "unknown option '--learn'. Did you mean '--learning_rate'?"),
        (["train", "--no-cen"], "unknown option '--no-cen'. Did you mean '--no-center_crop'?"),
        (
            ["generate", "a", "--adapter", "x", "--rev=1"],
            "unknown option '--rev'. Did you mean '--revision'?",
        ),
        (["push"], "the following arguments are required: directory, repo_id."),
        (["draw"], "command: invalid choice: 'draw'"),
    ],
)
def test_what_cannot_be_parsed_is_one_line(arguments, message, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert "?." not in error and ".." not in error


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            "train",
            [
                "Rank of the LoRA. Default: 64.",
                "in Prodigy as AdamW does. Default: true.",
                "rate rises from 0. Default: 0.",
            ],
        ),
        (
            "evaluate",
            ["with stock schedulers. Default: 1 2 4 8.", "diversity. Default: openai/clip-vit-large-patch14."],
        ),
    ],
)
def test_the_help_tells_the_defaults(command, shown, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(part in text for part in shown) and "Default: None" not in text
