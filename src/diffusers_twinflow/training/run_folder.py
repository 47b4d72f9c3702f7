"""Lock the output folder and keep track of the run it belongs to."""

import json
from logging import getLogger
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from ..configuration import TwinFlowConfigError
from ..hub.files import CONFIG_NAME, INDEX_NAME, LORA_NAME, MODULAR_INDEX_NAME
from ..writing import DiskError, disk_errors, make_folder, recover, remove_folder, write_text
from .checkpoint_files import Manifest, check_intact, checkpoint_step, damage_of, find_checkpoint, list_checkpoints

logger = getLogger(__name__)

RECORD = "training_run.json"
LOCK = ".twinflow.lock"
LATEST = "latest"
VALIDATION = "validation"
RESULTS = (CONFIG_NAME, LORA_NAME, INDEX_NAME, MODULAR_INDEX_NAME)


class RunFolder:
    """Locks the output folder for this process, and tells which of its checkpoints belong to the run.

    Each run has an id, which is in `training_run.json` and in each of its checkpoints. A run that resumes from a
    checkpoint that is not the last gets a new id. It records the earlier checkpoints that it continues from. Later
    checkpoints no longer belong to the run: it does not resume from them and does not count them.

    Args:
        directory: the output folder, created if it does not exist.

    Raises:
        TwinFlowConfigError: if another run uses the folder now.
        DiskError: if the folder cannot be written to.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        try:
            make_folder(self.directory)
        except DiskError as error:
            raise TwinFlowConfigError(f"output_dir='{directory}' cannot be used: {error}") from error
        with disk_errors(self.directory):
            self.lock = FileLock(self.directory / LOCK)
            try:
                self.lock.acquire(blocking=False)
            except Timeout:
                raise TwinFlowConfigError(
                    f"output_dir='{directory}' is in use by another run. Wait until it ends, or choose another "
                    "--output_dir."
                ) from None
            except NotImplementedError:
                logger.warning(f"'{directory}' cannot be locked. Do not start another run there while this one runs.")
        for folder in (self.directory, self.directory / VALIDATION):
            recover(folder)
        self.id: str | None = None
        self.history: list[list] = []
        self.is_finished = False
        self._read()

    def _read(self) -> None:
        try:
            record = json.loads((self.directory / RECORD).read_text(encoding="utf-8"))
            self.id, self.history, self.is_finished = record["id"], record["history"], record["finished"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning(f"'{self.directory / RECORD}' is ignored, because it cannot be read ({error}).")

    def _write(self) -> None:
        record = {"id": self.id, "history": self.history, "finished": self.is_finished}
        write_text(self.directory / RECORD, json.dumps(record, indent=2) + "\n")

    @property
    def run_id(self) -> str:
        """Return the id of the run. Call `choose` first."""
        if self.id is None:
            raise RuntimeError("the folder does not belong to a run yet: call `choose` first.")
        return self.id

    def release(self) -> None:
        """Let other processes use the folder."""
        self.lock.release()

    def owns(self, checkpoint: Path) -> bool:
        """Return whether a checkpoint belongs to this run, or to the part of an earlier run that it continues."""
        manifest = Manifest.load(checkpoint)
        run = manifest.run if manifest else None
        step = checkpoint_step(checkpoint)
        if self.id is None:
            return True
        return run == self.id or any(run == name and step <= last for name, last in self.history)

    def checkpoints(self) -> list[Path]:
        """List the checkpoints of this run, sorted by step."""
        return [checkpoint for checkpoint in list_checkpoints(self.directory) if self.owns(checkpoint)]

    def choose(self, resume_from_checkpoint: str | None) -> Path | None:
        """Find the checkpoint to start from, and claim the folder for this run.

        Args:
            resume_from_checkpoint: value of the option `resume_from_checkpoint`.

        Returns:
            The checkpoint, or `None` to start at step 0.

        Raises:
            TwinFlowConfigError: if the folder contains another run, or the checkpoint is missing or damaged.
        """
        if not resume_from_checkpoint:
            self._refuse_used()
            self._start()
        elif resume_from_checkpoint == LATEST:
            checkpoint = self._latest()
            self._continue(checkpoint) if checkpoint else self._start()
            return checkpoint
        else:
            checkpoint = find_checkpoint(self.directory, resume_from_checkpoint)
            check_intact(checkpoint, damage_of(checkpoint))
            if checkpoint.parent.resolve() != self.directory.resolve():
                self._refuse_used()
                self._start()
            else:
                self._continue(checkpoint)
            return checkpoint
        return None

    def _refuse_used(self) -> None:
        found = [path.name for path in list_checkpoints(self.directory)[-1:]]
        found += [name for name in (*RESULTS, "best") if (self.directory / name).exists()]
        if found:
            raise TwinFlowConfigError(
                f"output_dir='{self.directory}' already contains a run ({found[0]}). Continue it with "
                "`resume_from_checkpoint` latest, or choose another `output_dir`."
            )

    def _latest(self) -> Path | None:
        everything, damaged = list_checkpoints(self.directory), []
        own = [path for path in everything if self.owns(path) or Manifest.load(path) is None]
        others = [path.name for path in everything if path not in own]
        if others:
            logger.warning(
                f"{', '.join(others)} in '{self.directory}' is ignored: it belongs to another run, or this run was resumed "
                "from an earlier checkpoint."
            )
        for checkpoint in reversed(own):
            reason = damage_of(checkpoint)
            if reason is None:
                return checkpoint
            logger.warning(f"'{checkpoint}' is damaged ({reason}). The checkpoint before it is used.")
            damaged.append(checkpoint.name)
        if damaged:
            raise TwinFlowConfigError(
                f"resume_from_checkpoint=latest: no checkpoint in '{self.directory}' is intact. Delete "
                f"{', '.join(damaged)} there to start at step 0."
            )
        if self.is_finished:
            raise TwinFlowConfigError(
                f"resume_from_checkpoint=latest: '{self.directory}' contains a finished run without a checkpoint. Choose "
                "another `output_dir`."
            )
        logger.warning(f"'{self.directory}' has no checkpoint to resume from. Training starts at step 0.")
        return None

    def _start(self) -> None:
        self.id, self.history, self.is_finished = uuid4().hex, [], False
        self._write()

    def _continue(self, checkpoint: Path) -> None:
        """Continue as the same run, or as a new run if later checkpoints are given up."""
        step, run = checkpoint_step(checkpoint), Manifest.read(checkpoint).run
        is_last = self.id is not None and self.checkpoints()[-1:] == [checkpoint]
        if not is_last:
            self.history = [[name, min(last, step)] for name, last in self.history] + [[run, step]]
            self.history += [[self.id, step]] if self.id not in (None, run) else []
            self.id = uuid4().hex
        self.is_finished = False
        self._write()

    def finish(self) -> None:
        """Record that the run has ended and its result is written."""
        self.is_finished = True
        self._write()

    def remove_old_checkpoints(self, limit: int | None) -> None:
        """Delete the run's oldest checkpoints until at most `limit` are left."""
        for checkpoint in self.checkpoints()[:-limit] if limit else []:
            remove_folder(checkpoint)
