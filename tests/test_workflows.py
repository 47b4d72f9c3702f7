"""The workflows name make targets, files, extras and Python versions that exist, and follow the rules for workflows."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = {path.name: yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / ".github" / "workflows").iterdir()}
JOBS = [pytest.param(job, id=f"{name}-{key}") for name, flow in WORKFLOWS.items() for key, job in flow["jobs"].items()]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CHECKOUT = "actions/checkout@"


def commands(job: dict) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def found(pattern: str) -> set[str]:
    """What a pattern finds in the commands of all jobs."""
    lines = "\n".join(
        command for flow in WORKFLOWS.values() for job in flow["jobs"].values() for command in commands(job)
    )
    return set(re.findall(pattern, lines))


def test_every_make_target_exists():
    named = {target for targets in found(r"\bmake ([\w ./-]+)") for target in targets.split()}
    makefile = (ROOT / "Makefile").read_text("utf-8").replace("$(VENV)", ".venv")
    assert {"lint", "test", "test-all", "site", ".venv/.installed"} <= named
    assert named <= set(re.findall(r"^([\w./-]+):", makefile, re.MULTILINE))


def test_every_script_and_its_options_exist():
    calls = found(r"\bpython ([\w./-]+\.py)(.*)")
    assert len(calls) > 1
    training = (ROOT / "docs" / "options.md").read_text("utf-8")
    for script, arguments in calls:
        own = (ROOT / script).read_text("utf-8")
        for option in re.findall(r"--(\w+)", arguments):
            assert f'"--{option}"' in own or f"| `{option}` |" in training, f"{script} --{option}"


def test_every_extra_exists():
    named = {extra for extras in found(r"\[(\w+(?:,\w+)*)\]") for extra in extras.split(",")}
    assert named
    assert named <= PROJECT["optional-dependencies"].keys()


def test_the_oldest_and_the_newest_python_run_the_tests():
    prefix = "Programming Language :: Python :: "
    versions = [line.removeprefix(prefix) for line in PROJECT["classifiers"] if line.startswith(f"{prefix}3.")]
    jobs = WORKFLOWS["tests.yml"]["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python-version"] == [versions[0], versions[-1]]
    bounds = [step for step in jobs["lower-bounds"]["steps"] if "python-version" in step.get("with", {})]
    assert [step["with"]["python-version"] for step in bounds] == [versions[0]]


@pytest.mark.parametrize("flow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_a_workflow_may_only_read(flow):
    assert flow["permissions"] == {"contents": "read"}
    assert flow["concurrency"]["group"]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_has_a_time_limit_and_leaves_no_credentials_behind(job):
    assert job["timeout-minutes"] <= 180
    checkouts = [step for step in job["steps"] if step.get("uses", "").startswith(CHECKOUT)]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)
