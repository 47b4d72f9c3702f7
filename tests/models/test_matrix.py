import matrix


def test_the_page_tells_what_the_tables_say():
    page = matrix.PAGE.read_text()
    assert page == matrix.fill(page), "run `python tests/models/matrix.py`"
    assert all(f"| {name} |" in page for name in matrix.STOCK)
