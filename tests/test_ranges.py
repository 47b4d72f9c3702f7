import pytest

from diffusers_twinflow.ranges import Range


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "text"),
    [
        (Range(), [-1e300, 0, 10**400], [], "a finite number"),
        (Range(least=1), [1, 2.5], [0, 0.999], "1 or more"),
        (Range(above=0), [1e-300], [0, -1], "above 0"),
        (Range(least=0, most=1), [0, 1], [-1e-9, 1.1], "from 0 to 1"),
        (Range(least=0, below=1), [0, 0.99], [1], "0 or more and below 1"),
        (Range(above=0, most=1), [1], [0], "above 0 and at most 1"),
        (Range(most=3), [-7, 3], [4], "at most 3"),
    ],
)
def test_a_range_and_its_words(allowed, inside, outside, text):
    assert all(value in allowed for value in inside) and not any(value in allowed for value in outside)
    assert all(float(name) not in allowed for name in ("nan", "inf", "-inf"))
    assert str(allowed) == text
