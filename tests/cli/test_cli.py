import json
import shutil

import pytest
from PIL import Image

from diffusers_twinflow.cli import main
from diffusers_twinflow.hub import save_model_card

RUN = "import sys; from diffusers_twinflow.cli import main; sys.exit(main(sys.argv[1:]))"


def test_generate(adapter, hub, tmp_path):
    out = tmp_path / "pictures" / "fox.png"
    result = hub.run_anew(
        "-m",
        "diffusers_twinflow.cli",
        "generate",
        "a fox",
        "--adapter",
        adapter,
        "--seed",
        3,
        "--out",
        out,
        "--device",
        "cpu",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [str(out)] and Image.open(out).size == (16, 16)


def test_several_prompts_and_steps(adapter, tmp_path):
    def draw(name, *arguments):
        main(
            [
                "generate",
                "a",
                "b",
                "--adapter",
                str(adapter),
                "--device",
                "cpu",
                "--out",
                str(tmp_path / name),
                *arguments,
            ]
        )
        return [Image.open(tmp_path / name.replace(".", f"-{i}.")).tobytes() for i in (1, 2)]

    two = draw("two.png")
    assert two == draw("again.png", "--steps", "2") != draw("four.png", "--steps", "4")
    assert two != draw("seed.png", "--seed", "1")


def test_info(adapter, hub):
    result = hub.run(RUN, "info", adapter, "--json")
    assert result.returncode == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["num_inference_steps"] == 2 and values["lora_rank"] == [2] and values["steps_trained"] == 7
    assert values["lora_modules"] > 10 and values["time_conditioning_parameters"] == 2 * 16 + 257 * 16 + 17 * 16


def test_compare(adapter, hub, tmp_path):
    out = tmp_path / "comparison.png"
    result = hub.run(
        RUN, "compare", "a", "b", "--adapter", adapter, "--base_steps", 8, "--out", out, "--device", "cpu"
    )
    assert result.returncode == 0, result.stderr
    grid = Image.open(out)
    assert grid.size == (4 * 16, 2 * 16)
    assert len({grid.crop((x, 0, x + 16, 16)).tobytes() for x in range(0, 64, 16)}) == 4


def test_push_writes_the_card_and_pushes_once(adapter, hub, tmp_path):
    directory = shutil.copytree(adapter, tmp_path / "run")
    result = hub.run(RUN, "push", directory, "me/from-cli", "--base_model", "me/base", "--message", "first")
    assert result.returncode == 0, result.stderr
    assert [title for _, title in hub.history("me/from-cli")] == ["initial commit", "first"]
    assert "README.md" in {entry["path"] for entry in hub.ask("/api/models/me/from-cli/tree/main")}
    assert "hf_writer" not in result.stdout + result.stderr + (directory / "README.md").read_text()
    refused = hub.run(RUN, "push", directory, "me/no", "--base_model", "me/base", token="hf_reader")
    assert refused.returncode == 1 and refused.stderr.splitlines()[-1] and "Traceback" not in refused.stderr


def test_the_card_of_a_run_is_written_anew_for_the_repository_that_is_pushed(adapter, hub, tmp_path):
    """As getting-started.md pushes: the training script wrote the card before the repository had a name."""
    directory = shutil.copytree(adapter, tmp_path / "my-lora")
    save_model_card(directory, "my-lora", scores={"distance": 3.25})
    hub.run(RUN, "push", directory, "me/my-lora", "--base_model", "me/base").check()
    text = (directory / "README.md").read_text()
    assert 'from_pretrained("me/my-lora"' in text and "| distance | 3.25 |" in text
    assert "README.md" in hub.tree("me/my-lora")


def test_a_card_of_another_repository_is_not_pushed_unasked(adapter, hub, tmp_path):
    directory = shutil.copytree(adapter, tmp_path / "run")
    (directory / "README.md").write_text("---\nlicense: mit\n---\n# mine\n")
    refused = hub.run(RUN, "push", directory, "me/other", "--base_model", "me/base")
    assert refused.returncode == 1 and "--card new" in refused.stderr and hub.history("me/other") == []
    kept = hub.run(RUN, "push", directory, "me/other", "--base_model", "me/base", "--card", "keep")
    assert kept.returncode == 0 and "# mine" in (directory / "README.md").read_text()
    anew = hub.run(RUN, "push", directory, "me/other", "--base_model", "me/base", "--card", "new")
    assert anew.returncode == 0 and 'from_pretrained("me/other"' in (directory / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "no/such/place"], "neither a directory nor a Hub id"),
        (["generate", "a", "--adapter", "no/such/place"], "neither a directory nor a Hub id"),
        (["generate", "a", "--adapter", "x", "--out", "x.txt"], "must end in .png"),
        (["generate", "a", "--adapter", "x", "--steps", "0"], "0 steps are too few"),
        (["compare", "a", "--adapter", "x", "--steps", "1", "-1"], "-1 steps are too few"),
        (["push", "no/such/place", "me/x"], "is no directory"),
    ],
)
def test_what_the_user_can_mend_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ")


def test_a_command_is_needed(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "generate" in capsys.readouterr().err
