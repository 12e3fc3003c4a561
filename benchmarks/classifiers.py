"""Train the classifiers in the box, on 60,000 images each: `python -m benchmarks.classifiers [RECIPE ...]`."""

import time
from dataclasses import replace

import tyro
from tyro.conf import Positional

from shapedreamer.common.names import RecipeName
from shapedreamer.evaluation.classifier import IMAGES, WEIGHTS, save_classifier, train_classifier
from shapedreamer.models.recipes import DrawnData, named

from .throughput import machine


def main(
    recipes: Positional[tuple[RecipeName, ...]] = ("shapes", "patterns", "sprites", "mnist", "fashion_mnist"),
    data: str | None = None,
) -> None:
    """Args:
    recipes: For which data.
    data: Where MNIST's files lie, as for `shapedreamer train`.
    """
    for name in recipes:
        recipe = named(name, data=data if "mnist" in name else None)
        if isinstance(recipe.data, DrawnData):
            recipe = replace(recipe, data=replace(recipe.data, samples=60_000))
        training, held_out = recipe.make_data()
        start = time.perf_counter()
        network = train_classifier(training, held_out)
        card = {
            "command": f"python -m benchmarks.classifiers {name}",
            "images": str(IMAGES),
            "seconds": f"{time.perf_counter() - start:.0f}",
            "machine": machine(),
        }
        save_classifier(network, training.spec, WEIGHTS / f"{training.spec.name}.safetensors", card)
        right = f"{100 * network.accuracy:.2f}% of held-out images recognised"
        print(f"{name}: {len(network.known)} classes, {right}, {card['seconds']} s")


if __name__ == "__main__":
    tyro.cli(main)
