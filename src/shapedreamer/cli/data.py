"""shapedreamer data: look at a data set."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def run(
    recipe: Positional[Literal["shapes"]],
    inspect: bool = False,
    samples: int | None = None,
    out: Path = Path("contact.png"),
) -> None:
    """Say what a data set is; with --inspect, go through it all and write a contact sheet.

    Args:
        recipe: Whose data.
        inspect: Count images, labels and duplicates, and check the range.
        samples: Images in the data set.
        out: The contact sheet.
    """
    from ..data.inspect import contact_sheet, describe, inspect_data
    from ..recipes import shapes
    from ..render import grid, save_picture

    data = shapes(samples=samples).make_data()
    if not inspect:
        print(describe(data))
        return
    print(inspect_data(data))
    save_picture(grid(contact_sheet(data), columns=16), out)
    print(out)
