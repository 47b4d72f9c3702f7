import os
import unicodedata

import pytest

from diffusers_twinflow.data.text_files import encoding_of, find_beside, read_text

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_byte_order_mark_names_the_encoding_and_is_no_text(tmp_path, encoding):
    mark = "\ufeff" if encoding.endswith(("-le", "-be")) else ""
    path = tmp_path / "a.txt"
    path.write_bytes(f"{mark}füchse\r\n雪\n".encode(encoding))
    assert read_text(path) == "füchse\n雪\n"
    assert path.read_text(encoding=encoding_of(path)) == "füchse\n雪\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("füchse".encode("latin-1"), "a.txt' is not text in UTF-8.*save it as UTF-8"),
        ("fox".encode("utf-16-le"), "a.txt' contains null characters.*save it as UTF-8"),
        (b"\xff\xfea", "a.txt' is not text in UTF-16"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path / "a.txt")


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    for read in (read_text, encoding_of):
        with pytest.raises(ValueError, match="a FIFO"):
            read(tmp_path / "a.txt")


def test_a_file_beside_another_is_found_in_any_unicode_form_and_case(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    (tmp_path / f"{composed}.TXT").touch()
    assert find_beside(tmp_path / f"{decomposed}.png", ".txt") == tmp_path / f"{composed}.TXT"
    (tmp_path / "dog.train.txt").touch()
    assert find_beside(tmp_path / "dog.train.png", ".txt") == tmp_path / "dog.train.txt"
    for missing in (tmp_path / "fox.png", tmp_path / "nowhere" / "fox.png"):
        assert find_beside(missing, ".txt") == missing.with_suffix(".txt")
