"""The pages follow the rules of plain English that a program can check; CONTRIBUTING.md has them in words."""

import re

import pytest
from markdown_it import MarkdownIt

from tests.docs.pages import PAGES, ROOT

LONGEST_SENTENCE = 40
AVOIDED = {
    r"\bbut for\b": "except",
    r"\bshall\b": "must, or will",
    r"\bpictures?\b": "image",
    r"\bof (?:its|their) own\b": "its own ..., or leave it out",
    r"\bin (?:its|their) turn\b": "leave it out",
    r"\bcomes? to\b": "is",
    r"\bstands?\b": "is",
    r"\bof late\b": "recently",
    r"\bcannot but\b": "must",
    r"\blest\b": "so that ... not",
    r"\bwherein\b|\bwhereby\b|\bthereof\b|\btherein\b": "in which, by which",
    r"\ba (?:sample|step|prompt|call|row|GPU) each\b": "one ... per ...",
    r"\bseconds a step\b|\bsamples a second\b|\bpictures a call\b": "per",
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(text: str) -> list[str]:
    """The sentences of a page, without code, tables and generated parts."""
    text = re.sub(r"<!-- [\w -]+ -->\n.*?<!-- end -->", "", text, flags=re.S)
    sentences = []
    for token in MarkdownIt().enable("table").parse(text):
        if token.type != "inline" or token.level > 6:
            continue
        words = "".join(
            " "
            if child.type in ("softbreak", "hardbreak")
            else "CODE"
            if child.type == "code_inline"
            else child.content
            for child in token.children or ()
        )
        sentences += re.split(r"(?<=[.!?:;])\s+(?=[A-Z\"(C])", words)
    return sentences


@each_page
def test_words_that_make_a_page_hard_to_read_are_avoided(page):
    found = [
        f"{match[0]!r} (write: {instead}): {sentence}"
        for sentence in prose(page.read_text(encoding="utf-8"))
        for pattern, instead in AVOIDED.items()
        if (match := re.search(pattern, sentence, re.I))
    ]
    assert found == []


@each_page
def test_sentences_are_short(page):
    sentences = prose(page.read_text(encoding="utf-8"))
    assert [sentence for sentence in sentences if len(sentence.split()) > LONGEST_SENTENCE] == []


def test_what_is_hard_to_read_is_found():
    text = "It stands. `shall` is code.\n\n```\npicture\n```\n\n<!-- x -->\npicture\n<!-- end -->\n\n" + "word " * 41
    sentences = prose(text)
    assert sentences[:2] == ["It stands.", "CODE is code."] and len(sentences) == 3
    assert any(re.search(pattern, sentences[0]) for pattern in AVOIDED)
    assert not any(re.search(pattern, sentences[1]) for pattern in AVOIDED)
    assert len(sentences[2].split()) > LONGEST_SENTENCE
