"""A diffusers that lacks stock classes: what is left works, and a missing class names a release that has it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest

from diffusers_twinflow.installed_diffusers import COMPLETE_VERSION, absent_from_diffusers
from diffusers_twinflow.models.timestep_embedders import TIMESTEP_EMBEDDERS

LACKING = ("Flux2Transformer2DModel", "Flux2Pipeline", "PRXTransformer2DModel")
PROGRAM = """
import inspect, json, sys
import diffusers_twinflow
from diffusers_twinflow import TwinFlowScheduler, models
from diffusers_twinflow.families import FAMILIES, family_of
from diffusers_twinflow.models import TWINFLOW_CLASSES, enable_twinflow

def error_of(call):
    try:
        call()
    except (AttributeError, ImportError, KeyError, ValueError) as error:
        return [type(error).__name__, str(error)]

def import_it():
    from diffusers_twinflow.models import TwinFlowFlux2Transformer2DModel

import diffusers
model = diffusers.SD3Transformer2DModel(
    sample_size=4, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
    joint_attention_dim=8, caption_projection_dim=16, pooled_projection_dim=8, out_channels=4, pos_embed_max_size=4,
)
print(json.dumps({
    "version": diffusers.__version__,
    "classes": list(TWINFLOW_CLASSES),
    "len": len(TWINFLOW_CLASSES),
    "listed": [name for name, _ in inspect.getmembers(models)],
    "made": [cls.__name__ for cls in TWINFLOW_CLASSES.values()],
    "get": TWINFLOW_CLASSES.get("PRXTransformer2DModel"),
    "import": error_of(import_it),
    "attribute": error_of(lambda: models.TwinFlowPRXTransformer2DModel),
    "unknown": error_of(lambda: models.TwinFlowNope),
    "key": error_of(lambda: TWINFLOW_CLASSES["PRXTransformer2DModel"]),
    "families": list(FAMILIES),
    "usable": [family.name for family in FAMILIES.usable()],
    "family": error_of(lambda: FAMILIES["flux2"]),
    "pipeline": error_of(lambda: family_of("Flux2Pipeline")),
    "another": family_of("FluxPipeline").name,
    "enabled": type(enable_twinflow(model)).__name__,
}))
"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What a process finds whose diffusers is the installed one without some of its public names."""
    installed = Path(diffusers.__file__).parent
    package = tmp_path_factory.mktemp("other") / "diffusers"
    package.mkdir()
    for entry in installed.iterdir():
        if entry.name not in ("__init__.py", "__pycache__"):
            (package / entry.name).symlink_to(entry)
    lines = (installed / "__init__.py").read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.strip().strip('",') not in LACKING]
    assert len(lines) - len(kept) == 2 * len(LACKING), "each name is in the table and in an import for type checkers"
    kept = [line.replace(f'"{diffusers.__version__}"', '"0.99.0"') for line in kept]
    (package / "__init__.py").write_text("".join(kept))
    path = os.pathsep.join([str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_table_leaves_missing_classes_out(report):
    assert report["version"] == "0.99.0"
    expected = [name for name in TIMESTEP_EMBEDDERS if name not in LACKING]
    assert report["classes"] == expected and report["len"] == len(expected)
    assert report["made"] == [f"TwinFlow{name}" for name in expected]
    assert set(report["made"]) <= set(report["listed"])
    assert not {f"TwinFlow{name}" for name in LACKING} & set(report["listed"])
    assert report["enabled"] == "TwinFlowSD3Transformer2DModel"


@pytest.mark.parametrize(
    "what, error, missing",
    [
        ("import", "ImportError", "Flux2Transformer2DModel"),
        ("attribute", "ImportError", "PRXTransformer2DModel"),
        ("family", "TwinFlowConfigError", "Flux2Pipeline"),
        ("pipeline", "TwinFlowConfigError", "Flux2Pipeline"),
    ],
)
def test_a_missing_class_names_a_release_that_has_it(report, what, error, missing):
    kind, message = report[what]
    assert kind == error
    assert f"diffusers 0.99.0 has no {missing}." in message and f"pip install diffusers=={COMPLETE_VERSION}" in message


def test_names_that_no_release_has(report):
    assert report["unknown"][0] == "AttributeError" and "TwinFlowNope" in report["unknown"][1]
    assert report["key"][0] == "KeyError" and report["get"] is None


def test_the_families_that_are_left(report):
    assert set(report["families"]) - set(report["usable"]) == {"flux2"}
    assert report["another"] == "flux"


@pytest.mark.skipif(diffusers.__version__ != COMPLETE_VERSION, reason="another release is installed")
def test_the_named_release_has_every_class():
    assert absent_from_diffusers([*TIMESTEP_EMBEDDERS, *LACKING]) == []
