"""shapedreamer models: what is in the box."""

from typing import Annotated

from tyro.conf import Positional, arg


def run(
    name: Annotated[
        Positional[str | None], arg(metavar="[NAME]", help_behavior_hint="(default: a list of all)")
    ] = None,
) -> None:
    """List the models that come with the package, or tell all about one: data, training, quality.

    Args:
        name: A model in the box.
    """
    from ..evaluation.table import describe
    from ..models import zoo

    print(zoo.table() if name is None else describe(name))
