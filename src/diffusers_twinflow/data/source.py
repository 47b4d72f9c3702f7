"""The data of a run, opened and looked through before any model is loaded."""

from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from .check import CheckedRows, check_rows
from .options import DataConfig
from .report import FILE_NAME, DataReport
from .rows import Rows, keep_encoded, load_rows, unlisted_images


@dataclass(frozen=True)
class Source:
    """
    Attributes:
        rows: the rows that can be trained on; of a stream all rows, which are looked through as they come.
        report: what was left out.
    """

    config: DataConfig
    rows: CheckedRows | Rows
    report: DataReport


def open_source(
    config: DataConfig, output_dir: str | Path, *, resume: bool = False, processes: PartialState | None = None
) -> Source:
    """Load the data, check its columns, and find the samples that cannot be trained on.

    Args:
        output_dir: gets the report, `data_report.json`; of a stream one for each process.
        resume: whether the run goes on with a checkpoint.

    Raises:
        TwinFlowConfigError: where the data cannot be read, lacks a column or has no sample to train on.
    """
    processes = processes or PartialState()
    captions, image_column = config.captions, config.used_image_column
    with processes.main_process_first():
        rows = load_rows(
            config.dataset_name,
            config_name=config.dataset_config_name,
            split=config.dataset_split,
            instance_data_dir=config.instance_data_dir,
            data_files=config.data_files,
            prompts_file=config.prompts_file,
            cache_dir=config.cache_dir,
            streaming=config.streaming,
        )
        rows = keep_encoded(rows, image_column, captions, config.reference_image_column, config.clip)
        report = _report(config, Path(output_dir), processes, resume)
        if not config.streaming:
            rows = check_rows(
                rows,
                captions,
                image_column,
                report,
                reference_image_column=config.reference_image_column,
                clip=config.clip,
                num_proc=config.dataloader_num_workers,
                unlisted=unlisted_images(rows, image_column) if _should_list_all(config) else [],
            )
    return Source(config, rows, report)


def _report(config: DataConfig, output_dir: Path, processes: PartialState, resume: bool) -> DataReport:
    path = output_dir / FILE_NAME
    if not processes.is_main_process:
        path = path.with_stem(f"{path.stem}-{processes.process_index}") if config.streaming else None
    return DataReport(path, stop=config.stop_on_bad_samples, resume=resume and config.streaming)


def _should_list_all(config: DataConfig) -> bool:
    """Whether every image of the data's folders should have a row: not where a slice of a split is trained on."""
    return bool(config.used_image_column and config.captions.needed_columns) and "[" not in config.dataset_split
