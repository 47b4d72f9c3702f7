"""The figures of the runs that run away are those of their file of results."""

from pages import ROOT
from test_figures import results, rows

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def test_the_table():
    expected = []
    for row in results("stability_digits")["rows"]:
        (rate,) = (option.split("=")[1] for option in row["options"] if option.startswith("--learning_rate"))
        figures = f"{row['largest_loss']:.1f}", f"{row['largest_rms']:.1f}"
        expected.append([row["run"], rate, str(row["steps"]), *figures])
    assert rows(PAGE, "run | learning rate | steps | loss | rms") == expected
