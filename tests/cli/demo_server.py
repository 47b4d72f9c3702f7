"""Run the demo command in a new process, as a user does."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading

OPEN = re.compile(r"^The page is open at (http://\S+)$")
DEADLINE = 240


def listen_to_interrupts() -> None:
    """A test run in the background of a shell ignores Ctrl+C, and its children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class DemoServer:
    """A running `diffusers-twinflow demo`; `url` is where it says that its page is."""

    def __init__(self, home, *arguments):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADIO")} | {
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "GRADIO_TEMP_DIR": str(home),
        }
        self.errors = (home / "stderr").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "diffusers_twinflow.cli", "demo", *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            preexec_fn=listen_to_interrupts,
        )
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda: lines.put(self.process.stdout.readline()), daemon=True).start()
        line = lines.get(timeout=DEADLINE)
        found = OPEN.match(line)
        assert found, f"{line!r} is no address; standard error: {self.stderr()}"
        self.url = found[1]

    def stderr(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def close(self) -> int:
        """Press Ctrl+C; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=30)
        finally:
            self.process.kill()
            self.process.stdout.close()
            self.errors.close()
