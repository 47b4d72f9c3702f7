"""The cells of the notebook run in order, on the digits base and for two steps."""

import json
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"


@pytest.fixture(autouse=True)
def in_the_folder_of_examples(monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.long
def test_every_cell_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES / "digits")  # the notebook adds it too; this takes it out again
    monkeypatch.setattr("prepare_data.TEST_EXAMPLES", 4500)  # 500 digits are enough to train two steps
    replaced = {"STEPS = 600": "STEPS = 2", 'ROOT / "outputs" / "quickstart"': f"Path({str(tmp_path)!r})"}
    scope: dict = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            for text in [text for text in replaced if text in source]:
                source = source.replace(text, replaced.pop(text))
            exec(compile(source, f"{NOTEBOOK.name}:{cell['id']}", "exec"), scope)
    assert replaced == {}
    assert scope["trainer"].step == 2 and len(scope["columns"]) == 5
    assert scope["grid"].width > 5 * 32
    assert "load_lora_weights" in capsys.readouterr().out


def test_the_notebook_holds_no_output():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
