"""shapedreamer models: the models that come with the package."""

from typing import Annotated

from tyro.conf import Positional, arg


def run(
    name: Annotated[Positional[str | None], arg(metavar="[NAME]", help_behavior_hint="(default: list all)")] = None,
) -> None:
    """List the models that come with the package, or describe one: data, training and quality.

    Args:
        name: A shipped model.
    """
    from ..evaluation.table import describe
    from ..models import zoo

    print(zoo.table() if name is None else describe(name))
