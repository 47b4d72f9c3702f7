from tests.models import matrix


def test_the_pages_tell_what_the_tables_say():
    for path, text in matrix.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run `python tests/models/matrix.py`"
    assert all(f"| {name} |" in matrix.PAGE.read_text(encoding="utf-8") for name in matrix.STOCK)
