import json
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

import diffusers_twinflow
from diffusers_twinflow.cli import main
from diffusers_twinflow.hub import save_model_card
from diffusers_twinflow.hub.grids import GridLayout

RUN = "import sys; from diffusers_twinflow.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
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
    assert result.stderr == f"Loading {adapter} on cpu ...\n", "only our own message"


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
    assert two != draw("style.png", "--sampling_style", "any") == draw("style-again.png", "--sampling_style", "any")


def test_info(adapter, hub):
    result = hub.run(RUN, "info", adapter, "--json")
    assert result.returncode == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["num_inference_steps"] == 2 and values["lora_rank"] == [1, 2] and values["steps_trained"] == 7
    assert values["lora_modules"] > 10 and values["time_conditioning_parameters"] == 2 * 16 + 257 * 16 + 17 * 16


def test_compare(adapter, hub, tmp_path):
    out = tmp_path / "comparison.png"
    result = hub.run(
        RUN, "compare", "a", "b", "--adapter", adapter, "--base_steps", 8, "--out", out, "--device", "cpu"
    )
    assert result.returncode == 0, result.stderr
    blank = Image.new("RGB", (16, 16))
    labels = ["base, 8 steps", "1 step", "2 steps", "4 steps"]
    layout = GridLayout({label: [blank] * 2 for label in labels}, ["a", "b"])
    grid = Image.open(out)
    assert grid.size == tuple(layout.size)
    assert len({grid.crop(box).tobytes() for row in layout.boxes for box in row}) == 8
    without_images = layout.draw({label: [blank] * 2 for label in labels})
    for row in layout.boxes:
        for box in row:
            grid.paste(blank, box)
    assert grid.tobytes() == without_images.tobytes(), "the labels are those of the columns, and the prompts"


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
        (["info", "x" * 5000], "neither a directory nor a Hub id"),
        (["generate", "a", "--adapter", "no/such/place"], "neither a directory nor a Hub id"),
        (["generate", "a", "--adapter", "x", "--out", "x.txt"], "must end in .png"),
        (["generate", "a", "--adapter", "x", "--steps", "0"], "--steps=0 is not valid"),
        (["compare", "a", "--adapter", "x", "--steps", "1", "-1"], "--steps=-1 is not valid"),
        (["push", "no/such/place", "me/x"], "is not a directory"),
    ],
)
def test_what_the_user_can_mend_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--height", 33],
            r"--height=33 is not valid: it must be a multiple of 4 pixels for this base. Use 32 or 36\.",
        ),
        (["--width", 1], r"--width=1 is not valid: it must be a multiple of 4 pixels for this base. Use 4\."),
        (["--height", 800], r"Height \(\d+\) cannot be greater than"),
        (["--device", "cuda:77"], r"--device=cuda:77 cannot be used \(.+\). Use --device="),
        (["--device", "meta"], r"--device=meta cannot be used"),
        (["--device", "gpu"], r"--device=gpu cannot be used"),
        (["--image", "no.png"], r"--image=no.png cannot be used with '.+', which does not edit images"),
        (["--num_frames", 5], r"--num_frames=5 is not valid for StableDiffusion3Pipeline"),
        (["--base_model", "no/such/base"], r"'no/such/base' is neither a directory nor a Hub id"),
    ],
)
def test_what_the_base_cannot_draw_is_one_line(arguments, message, adapter, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "a", "--adapter", str(adapter), "--device", "cpu", *map(str, arguments)]) == 1
    loading, error = ("", *capsys.readouterr().err.splitlines())[-2:]
    assert re.match(rf"error: .*{message}", error) and (not loading or loading.startswith("Loading "))
    assert not list(tmp_path.iterdir())


def test_a_file_of_the_repository_is_named_with_its_folder(adapter, capsys):
    weights = adapter / "pytorch_lora_weights.safetensors"
    assert main(["info", str(weights)]) == 1
    assert f"'{weights}' is a file. Pass its folder, '{adapter}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("utf-16", "is not text in UTF-8"), ("latin-1", "is not text in UTF-8"), ("utf-8-sig", "--card new")],
)
def test_a_card_in_another_encoding_is_told(adapter, encoding, message, capsys, tmp_path):
    directory = shutil.copytree(adapter, tmp_path / "run")
    (directory / "README.md").write_bytes("# née\n".encode(encoding))
    assert main(["push", str(directory), "me/other", "--base_model", "me/base"]) == 1
    assert message in capsys.readouterr().err


def test_what_a_strangers_repository_says_is_escaped(adapter, capsys, tmp_path):
    directory = shutil.copytree(adapter, tmp_path / "hostile")
    path = directory / "twinflow_config.json"
    values = json.loads(path.read_text())
    values |= {"base_model": "a/b\x1b[2J\nerror: forged", "trained": {"steps": "\ud800"}}
    path.write_text(json.dumps(values))
    assert main(["info", str(directory)]) == 0
    out = capsys.readouterr().out
    assert r"base_model: a/b\x1b[2J\nerror: forged" in out and r"steps_trained: \ud800" in out
    lines = out.splitlines()
    assert "  twinflow_enabled: true" in lines and not any("None" in line or "[" in line[-1] for line in lines)
    assert main(["info", str(directory), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["base_model"] == values["base_model"] and shown["steps_trained"] == "\ud800"


def test_no_command_prints_the_help(capsys):
    assert main([]) == 0
    assert "generate" in capsys.readouterr().out


def test_the_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"diffusers-twinflow {diffusers_twinflow.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["generate", "--help"], ["train", "--help"], ["convert", "--help"], ["--version"], []]
)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom diffusers_twinflow.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'diffusers', 'transformers', 'huggingface_hub', 'PIL', 'numpy'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()" and done.stderr == ""


def test_an_error_keeps_its_traceback_if_asked(capsys):
    assert main(["info", "no/such/place", "--verbose"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and "\nerror: " in error
