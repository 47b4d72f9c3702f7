"""Imports the training script once, and forks a process for each run that it is asked for on its standard input.

An order is a line of JSON: `{"arguments", "environment", "directory", "output", "code"}` starts a run, of the script or of some
code, and is answered with its process id; `{"wait": id}` is answered with its exit code, once it has one.
"""

import atexit
import json
import os
import signal
import sys
import traceback

from tests.sharding_on_cpu import pretend_accelerators
from tests.training_script import load_script

LONGEST_RUN = 600  # seconds; several runs may share two slow cores


def run(script, order: dict) -> None:
    """Be the process of one run; never returns."""
    os.setsid()
    signal.alarm(LONGEST_RUN)
    with open(order["output"], "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(order["directory"])
    os.environ.update(order["environment"])
    sys.argv = ["train_twinflow.py", *order["arguments"]]
    exit_code = 1
    try:
        pretend_accelerators()
        if order["code"]:
            exec(compile(order["code"], "program", "exec"), {"__name__": "__main__"})
        else:
            script.main()
        exit_code = 0
    except SystemExit as end:
        exit_code = end.code if isinstance(end.code, int) else int(bool(end.code))
        sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(exit_code)


def main() -> None:
    import tests.preloaded  # noqa: F401

    script = load_script()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                run(script, order)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
