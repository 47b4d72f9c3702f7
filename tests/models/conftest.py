from tests.models.representatives import by_weight
from tests.models.stock import STOCK


def pytest_generate_tests(metafunc):
    """A test that takes a `name` and does not say which is run for every stock class."""
    given = [mark.args[0].replace(" ", "").split(",") for mark in metafunc.definition.iter_markers("parametrize")]
    if "name" in metafunc.fixturenames and not any("name" in names for names in given):
        metafunc.parametrize("name", by_weight(STOCK))
