"""Open and check the data of a run before any model is loaded."""

from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from .check import CheckedRows, check_rows
from .columns import keep_encoded, unlisted_images
from .config import DataConfig
from .memory import warn_about_memory
from .report import FILE_NAME, IGNORED_FILES, MISSING_CAPTIONS, DataReport, Fault
from .rows import Loaded, Rows, load_source


@dataclass(frozen=True)
class Source:
    """The data of a run.

    Attributes:
        rows: rows that can be used. For a stream, all rows; they are checked while they are read.
        report: report of what was left out.
    """

    config: DataConfig
    rows: CheckedRows | Rows
    report: DataReport

    @property
    def epoch_size(self) -> int | None:
        """The number of samples per epoch; `None` for a stream."""
        return len(self.rows.rows) * self.config.repeats if isinstance(self.rows, CheckedRows) else None


def open_source(
    config: DataConfig,
    output_dir: str | Path,
    *,
    resume: bool = False,
    processes: PartialState | None = None,
    batch_size: int = 1,
    rows: Rows | None = None,
) -> Source:
    """Load the data, check its columns, and find the samples that cannot be used.

    Args:
        config: data options.
        output_dir: folder for the report `data_report.json`. For a stream, each process writes one.
        resume: whether the run continues from a checkpoint.
        batch_size: number of samples per micro-batch and process, for a warning if they do not fit into memory.
        rows: the data. Defaults to the data that `config` names.

    Raises:
        TwinFlowConfigError: if the data cannot be read, lacks a column or has no sample that can be used.
    """
    processes = processes or PartialState()
    if processes.is_local_main_process:
        warn_about_memory(config, batch_size)
    captions, image_column = config.captions, config.used_image_column
    with processes.main_process_first():
        loaded = _load(config) if rows is None else Loaded(rows.with_format(None), unlisted=[])
        kept = keep_encoded(loaded.rows, image_column, captions, config.reference_image_column, config.clip)
        report = _report(config, Path(output_dir), processes, resume)
        left_out = _left_out(config, loaded, kept)
        usable: CheckedRows | Rows = kept
        if config.streaming:
            report.add(left_out)
        else:
            usable = check_rows(
                kept,
                captions,
                image_column,
                report,
                reference_image_column=config.reference_image_column,
                clip=config.clip,
                num_proc=config.dataloader_num_workers,
                left_out=left_out,
            )
    return Source(config, usable, report)


def _load(config: DataConfig) -> Loaded:
    return load_source(
        config.dataset_name,
        config_name=config.dataset_config_name,
        split=config.dataset_split,
        instance_data_dir=config.instance_data_dir,
        data_files=config.data_files,
        prompts_file=config.prompts_file,
        cache_dir=config.cache_dir,
        streaming=config.streaming,
        image_columns=(config.image_column, config.reference_image_column),
    )


def _report(config: DataConfig, output_dir: Path, processes: PartialState, resume: bool) -> DataReport:
    path = output_dir / FILE_NAME
    if not processes.is_main_process:
        path = path.with_stem(f"{path.stem}-{processes.process_index}")
    is_written = processes.is_main_process or config.streaming
    return DataReport(
        path if is_written else None, stop=config.stop_on_bad_samples, resume=resume and config.streaming
    )


def _left_out(config: DataConfig, loaded: Loaded, rows: Rows) -> list[Fault]:
    """Return the files that are left out because they have no row. Empty if images are not read."""
    if config.used_image_column is None:
        return []
    ignored = [Fault(IGNORED_FILES, path, reason) for path, reason in loaded.ignored.items()]
    kind = MISSING_CAPTIONS if config.captions.needed_columns else IGNORED_FILES
    unlisted = loaded.unlisted
    if unlisted is None and kind == MISSING_CAPTIONS and not config.streaming and "[" not in config.dataset_split:
        unlisted = unlisted_images(rows, config.used_image_column, config.reference_image_column)
    return ignored + [Fault(kind, path, "no row names it") for path in unlisted or []]
