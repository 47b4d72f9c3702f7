import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage


def picture(number: int, size: tuple[int, int] = (16, 16)) -> PILImage.Image:
    """A picture of noise whose corner tells its number; size is (width, height)."""
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return PILImage.fromarray(pixels)


def encoded(image: PILImage.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


class Files:
    """Builds data in every layout that is read."""

    def __init__(self, directory: Path):
        self.directory, self.count = directory, 0

    def new(self, name: str) -> Path:
        self.count += 1
        path = self.directory / f"{self.count}" / name
        path.parent.mkdir(parents=True)
        return path

    def folder(self, count: int = 8, sizes=((16, 16),), captions=None, metadata: str | None = "jsonl") -> Path:
        """Images 0.png, 1.jpg, 2.png, ... of the sizes in turn, with captions in a metadata file."""
        folder = self.new("images")
        folder.mkdir()
        rows = []
        for i in range(count):
            name = f"{i}.{'jpg' if i % 2 else 'png'}"
            picture(i, sizes[i % len(sizes)]).save(folder / name)
            rows.append({"file_name": name, "text": captions[i] if captions else f"caption {i}"})
        if metadata == "jsonl":
            (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        elif metadata == "csv":
            with open(folder / "metadata.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, ["file_name", "text"])
                writer.writeheader()
                writer.writerows(rows)
        return folder

    def parquet(self, count: int = 8, files: int = 1, **columns: list) -> list[str]:
        """Files of images with the bytes inside, and caption columns; "text" unless others are given."""
        columns = columns or {"text": [f"caption {i}" for i in range(count)]}
        data = {"image": [{"bytes": encoded(picture(i)), "path": None} for i in range(count)], **columns}
        features = Features({"image": Image(), **{name: Value("string") for name in columns}})
        dataset, paths = Dataset.from_dict(data, features=features), []
        folder = self.new("parquet")
        folder.mkdir()
        for part in range(files):
            paths.append(str(folder / f"{part}.parquet"))
            dataset.shard(files, part, contiguous=True).to_parquet(paths[-1])
        return paths

    def tar(self, count: int = 8) -> str:
        """A webdataset: 0.png, 0.txt, 1.png, ..."""
        path = self.new("data.tar")
        with tarfile.open(path, "w") as archive:
            for i in range(count):
                for name, content in ((f"{i}.png", encoded(picture(i))), (f"{i}.txt", f"caption {i}".encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return str(path)

    def text(self, name: str, content: str) -> str:
        path = self.new(name)
        path.write_text(content, encoding="utf-8")
        return str(path)
