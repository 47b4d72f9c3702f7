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
        ValueError: if the rest is not valid JSON, or if the content is not text. The message names the line, the column and
            the first character that is wrong.
    """
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8 or UTF-16") from None
    text = TOKEN.sub(lambda found: found[0] if found[0].startswith('"') else _blank(found[0]), text)
    text = TRAILING_COMMA.sub(lambda found: found[1] or " ", text)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(_describe(error, text)) from None
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def _describe(error: json.JSONDecodeError, text: str) -> str:
    found = f"found {text[error.pos]!r}" if error.pos < len(text) else "the file ends"
    reason = error.msg.removesuffix(" starting at").removesuffix(" at").rstrip(": ")
    return f"line {error.lineno}, column {error.colno}: {found}, {reason[:1].lower()}{reason[1:]}"


def _blank(comment: str) -> str:
    return re.sub(r"[^\n]", " ", comment)
