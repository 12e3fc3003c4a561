"""shapedreamer data: look at a data set, or download one."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..common.names import RecipeName
from .options import Images


def run(
    recipe: Positional[RecipeName | Literal["fetch"]],
    name: Positional[
        Annotated[Literal["dcss", "mnist", "fashion_mnist"] | None, arg(metavar="[{dcss,mnist,fashion_mnist}]")]
    ] = None,
    images: OmitArgPrefixes[Images] = Images(),
    inspect: bool = False,
    samples: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None,
    out: Path = Path("contact.png"),
) -> None:
    """Describe a data set; with --inspect, examine every image and write a contact sheet.

    `shapedreamer data fetch NAME` downloads a data set to --data, or to a cache folder, and prints where it is.

    Args:
        recipe: The recipe whose data to look at; or the word fetch.
        name: What to fetch: dcss (Dungeon Crawl tiles, CC0), mnist or fashion_mnist.
        inspect: Count images, labels and duplicates, and check the range of values.
        samples: Number of images.
        out: The contact sheet.
    """
    from ..common.errors import UserError

    if recipe == "fetch":
        if name is None:
            raise UserError("data fetch needs a name: dcss, mnist or fashion_mnist")
        if name == "dcss":
            from ..data.files.dcss import fetch_dcss

            print(fetch_dcss(images.data))
        else:
            from ..data.files.download import cache_folder, fetch
            from ..data.files.mnist import FILES

            print(*fetch(FILES[name], images.data or cache_folder(name)), sep="\n")
        return
    if name is not None:
        raise UserError(f"to download {name}, use: shapedreamer data fetch {name}")

    from ..data.inspect import contact_sheet, describe, inspect_data
    from ..imaging.render import grid, save_picture
    from ..models.recipes import get_recipe

    data, held_out = get_recipe(recipe, samples=samples, **images.options()).make_data()
    if not inspect:
        print(describe(data, held_out))
        return
    print(inspect_data(data, held_out))
    save_picture(grid(contact_sheet(data), columns=16), out)
    print(out)
