"""The results of an evaluation as a file, which a stopped evaluation continues from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..configuration import TwinFlowConfigError
from ..writing import remove_folder, write_text
from .rows import Row

FILE_NAME = "scores.json"
IMAGES_FOLDER = "images"


@dataclass(frozen=True)
class RowResult:
    """What was measured for a row.

    Attributes:
        row: the row.
        scores: scores by name.
        seconds_per_image: median time of a call per image and process, or `None` if no image was generated.
        device: device that generated the images.
        batch_size: number of images per call.
        error: why the row could not be generated, or `None`.
    """

    row: Row
    scores: dict[str, float] = field(default_factory=dict)
    seconds_per_image: float | None = None
    device: str = ""
    batch_size: int = 1
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        values = asdict(self)
        return {"label": self.row.label, **values.pop("row"), **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RowResult":
        """Read the result from JSON values."""
        row = Row(values["model"], values["steps"], values["scheduler"])
        names = ("scores", "seconds_per_image", "device", "batch_size", "error")
        return cls(row, **{name: values[name] for name in names})


@dataclass
class Results:
    """The results of an evaluation.

    Attributes:
        settings: everything that the scores of a row depend on, as JSON values.
        versions: versions of the libraries that generated and scored the images.
        rows: results by row, in the order in which they were measured.
    """

    settings: dict[str, Any]
    versions: dict[str, str]
    rows: dict[Row, RowResult] = field(default_factory=dict)

    def save(self, directory: str | Path) -> Path:
        """Write `scores.json` into a folder. Returns its path."""
        path = Path(directory) / FILE_NAME
        values = {
            "settings": self.settings,
            "versions": self.versions,
            "rows": [result.to_dict() for result in self.rows.values()],
        }
        write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def load(cls, directory: str | Path) -> "Results | None":
        """Read `scores.json` from a folder, or return `None` if there is none.

        Raises:
            TwinFlowConfigError: if the file is damaged.
        """
        path = Path(directory) / FILE_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            results = [RowResult.from_dict(row) for row in values["rows"]]
            return cls(dict(values["settings"]), dict(values["versions"]), {each.row: each for each in results})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise TwinFlowConfigError(
                f"'{path}' is damaged or from another program ({error!r}): choose another `output_dir`, or use `restart`."
            ) from error


def start_results(directory: str | Path, settings: dict[str, Any], versions: dict[str, str]) -> Results:
    """Return the results that an evaluation continues from, or empty results if there are none.

    Args:
        directory: folder of the evaluation.
        settings: everything that the scores depend on.

    Raises:
        TwinFlowConfigError: if the earlier results were measured with other settings.
    """
    earlier = Results.load(directory)
    if earlier is None:
        return Results(settings, versions)
    changed = [name for name in {**earlier.settings, **settings} if earlier.settings.get(name) != settings.get(name)]
    if changed:
        names = ", ".join(name.removesuffix("_sha256") for name in changed)
        raise TwinFlowConfigError(
            f"The results in output_dir='{directory}' were measured with other settings ({names}). Use the same options, "
            "choose another `output_dir`, or use `restart` to start again."
        )
    return earlier


def delete_results(directory: str | Path) -> None:
    """Delete the results and images of an evaluation."""
    (Path(directory) / FILE_NAME).unlink(missing_ok=True)
    images = Path(directory) / IMAGES_FOLDER
    if images.is_dir():
        remove_folder(images)
