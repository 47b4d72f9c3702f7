"""Fork one process per run of the training script or of other code, after importing everything.

The server is forked from pytest itself before the first test. By then the files of tests have imported most of what runs
need, and the server imports the rest (`tests.preloaded`) once, when the first run is ordered.

An order is a line of JSON: `{"arguments", "environment", "directory", "outputs", "code"}` starts a run and is answered with its
process id; `{"wait": id}` is answered with the exit code of that process, once it has ended.
"""

import atexit
import faulthandler
import json
import logging
import os
import signal
import sys
import tempfile
import traceback

LONGEST_RUN = 600  # seconds; several runs may share two slow cores


class ForkServer:
    """The server process; `order` sends it one order and returns its answer."""

    def __init__(self):
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._orders)  # or its end would never be seen
            os.close(self._answers)
            for descriptor in (1, 2):
                os.dup2(self._output.fileno(), descriptor)
            serve(orders, answers)
        os.close(orders)
        os.close(answers)
        self._answer_lines = open(self._answers)  # noqa: SIM115

    def order(self, **values) -> int:
        os.write(self._orders, f"{json.dumps(values)}\n".encode())
        answer = self._answer_lines.readline()
        if not answer:
            self._output.seek(0)
            raise RuntimeError(f"The fork server ended: {self._output.read().decode()}")
        return int(answer)

    def close(self) -> None:
        os.close(self._orders)
        self._answer_lines.close()
        self._output.close()
        os.waitpid(self.pid, 0)


def serve(orders: int, answers: int) -> None:
    """Be the server until pytest closes the pipe of orders; never returns."""
    try:
        leave_pytest()
        places = None
        for line in open(orders):  # noqa: SIM115
            order = json.loads(line)
            if "wait" in order:
                answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
            else:
                if places is None:
                    import tests.preloaded  # noqa: F401
                    from tests import hub_settings

                    places = hub_settings.find_copies()
                answer = os.fork()
                if answer == 0:
                    run(order, places)
            os.write(answers, f"{answer}\n".encode())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def leave_pytest() -> None:
    """Undo what pytest did to the output, to logging and to hooks."""
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    faulthandler.disable()
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)


def run(order: dict, places: list) -> None:
    """Be the process of one run; never returns."""
    os.setsid()
    signal.alarm(LONGEST_RUN)
    for descriptor, path in zip((1, 2), order["outputs"], strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["train_twinflow.py", *order["arguments"]]
    exit_code = 1
    try:
        from tests import hub_settings
        from tests.sharding_on_cpu import pretend_accelerators
        from tests.training_script import load_script

        hub_settings.read_again(places)
        pretend_accelerators()
        if order["code"] is None:
            load_script().main()
        else:
            exec(compile(order["code"], "program", "exec"), {"__name__": "__main__"})
        exit_code = 0
    except SystemExit as end:
        exit_code = end.code if isinstance(end.code, int) else int(bool(end.code))
        if not isinstance(end.code, int | None):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
