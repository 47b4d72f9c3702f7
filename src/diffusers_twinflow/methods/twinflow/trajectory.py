"""Show the time, target time, sign and branch of the samples of a few steps, as rows and as a plot."""

from collections.abc import Sequence
from io import BytesIO
from itertools import cycle

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from .branches import BRANCHES
from .method import TwinFlow

NAME = "trajectory"
TITLE = "Trajectories (experimental/theory unverified)"
COLUMNS = ("sigma", "target_time", "sign", "branch")
SIGNS = {1.0: ("+1, the real trajectory", "o"), -1.0: ("-1, the twin's", "x")}
TEN_COLOURS = [matplotlib.colormaps["tab10"](index) for index in range(10)]
COLOURS = dict(zip((branch.name for branch in BRANCHES), TEN_COLOURS))
OTHER_COLOURS = TEN_COLOURS[len(COLOURS) :]
Row = tuple[float, float, float, str]


def trajectory_rows(method: TwinFlow, positions: Sequence[int], seed: int) -> list[Row]:
    """Return a row of `COLUMNS` for the sample at each position of the run.

    The draw of a position depends only on the seed, so it is drawn again here on the CPU.
    """
    draw = method.draw(positions, (), seed=seed)
    branches = [method.branch_names[index] for index in draw.branch_indices.tolist()]
    return list(zip(draw.t.tolist(), draw.r.tolist(), draw.sign.tolist(), branches))


def trajectory_picture(rows: Sequence[Row]) -> Image.Image:
    """Draw a scatter plot for each sign, colored by branch."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    figure.suptitle(TITLE)
    others = dict.fromkeys(row[3] for row in rows if row[3] not in COLOURS)
    colours = COLOURS | dict(zip(others, cycle(OTHER_COLOURS)))
    for axes, (sign, (label, marker)) in zip(figure.subplots(1, 2, sharex=True, sharey=True), SIGNS.items()):
        axes.set(title=f"sign {label}", xlabel="sigma", ylabel="target time", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
        for branch, colour in colours.items():
            points = [row for row in rows if row[2] == sign and row[3] == branch]
            if points:
                x, y = zip(*((row[0], row[1]) for row in points))
                axes.scatter(x, y, s=18, marker=marker, color=colour, label=branch)
        if axes.collections:
            axes.legend(loc="upper left", fontsize="small")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer, formats=["PNG"]).convert("RGB")
