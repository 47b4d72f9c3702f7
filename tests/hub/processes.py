"""New processes that talk to a Hub on this machine, forked from one that has already imported the package."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.forking import fork_server

SERVER = Path(__file__).with_name("hub_server.py")


@dataclass(frozen=True)
class Result:
    returncode: int
    stdout: str
    stderr: str

    def check(self) -> "Result":
        assert self.returncode == 0, self.stderr
        return self


class Hub:
    """A running server, and the processes that talk to it."""

    def __init__(self, home: Path):
        self.home = home
        self.server = subprocess.Popen(
            [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url = f"http://127.0.0.1:{int(self.server.stdout.readline())}"

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait(timeout=10)

    def ask(self, path: str, content=None):
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, data, {"Authorization": "Bearer hf_writer"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def fault(self, match: str, **fault) -> None:
        """Order a fault for the next request whose "METHOD path" has `match` in it; see `hub_server`."""
        self.ask("/test/faults", {"match": match, **fault})

    def take_back_faults(self) -> None:
        """No fault that a test ordered stays for the next one."""
        self.ask("/test/faults", {})

    def log(self) -> list[str]:
        return self.ask("/test/log")

    def history(self, repo_id: str) -> list[list[str]]:
        return self.ask("/test/history").get(repo_id, [])

    def tree(self, repo_id: str) -> set[str]:
        return {entry["path"] for entry in self.ask(f"/api/models/{repo_id}/tree/main")}

    def environment(self, home: Path, token: str | None, **variables: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
            **({"HF_TOKEN": token} if token else {}),
            **variables,
        }

    def start(self, code, *arguments, token="hf_writer", home=None, **variables):
        """Start a process; what it returns takes no arguments, waits for the process and returns its `Result`."""
        folder = Path(tempfile.mkdtemp(dir=self.home))
        outputs = (str(folder / "stdout"), str(folder / "stderr"))
        environment = self.environment(home or self.home, token, **variables)
        order = fork_server().order
        process = order(
            arguments=[*map(str, arguments)],
            code=code,
            environment=environment,
            directory=os.getcwd(),
            outputs=outputs,
        )

        def wait() -> Result:
            exit_code = order(wait=process)
            return Result(exit_code, *(Path(path).read_text() for path in outputs))

        return wait

    def run(self, code, *arguments, **options) -> Result:
        return self.start(code, *arguments, **options)()

    def run_anew(self, *command, token="hf_writer", home=None, **variables) -> Result:
        """A process that has nothing imported yet: Python with this command line."""
        environment = self.environment(home or self.home, token, **variables)
        command = [sys.executable, *map(str, command)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        return Result(done.returncode, done.stdout, done.stderr)


@cache
def shared_hub() -> Hub:
    """One server for all tests of this pytest process; each test names repositories of its own."""
    home = Path(tempfile.mkdtemp(prefix="hub-"))
    hub = Hub(home)
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    atexit.register(hub.close)
    return hub


@pytest.fixture(scope="session")
def hub():
    return shared_hub()


@pytest.fixture(autouse=True)
def no_faults_left(request):
    yield
    if "hub" in request.fixturenames:
        request.getfixturevalue("hub").take_back_faults()
