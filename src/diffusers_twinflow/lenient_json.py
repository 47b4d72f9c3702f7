"""Parse JSON as people write it by hand, with comments, trailing commas and a byte order mark."""

import codecs
import json
import re
from typing import Any

TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', re.DOTALL)
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def loads(content: bytes) -> Any:
    """Parse JSON that may have `//` and `/* */` comments, trailing commas and a byte order mark (UTF-8 or UTF-16).

    Raises:
        ValueError: if the rest is not valid JSON, or if the content is not text. Line numbers match the file.
    """
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    text = content.decode(encoding)
    text = TOKEN.sub(lambda found: found[0] if found[0].startswith('"') else _blank(found[0]), text)
    return json.loads(TRAILING_COMMA.sub(lambda found: found[1] or " ", text))


def _blank(comment: str) -> str:
    return re.sub(r"[^\n]", " ", comment)
