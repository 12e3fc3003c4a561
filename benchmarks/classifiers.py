"""Train the classifiers that ship with the package: python -m benchmarks.classifiers [RECIPE ...]

Each is trained on 60,000 different images and written to evaluation/weights/.
"""

import time
from dataclasses import replace

import tyro
from tyro.conf import Positional

from shapedreamer.common.names import RecipeName
from shapedreamer.evaluation.classifier import TRAINING_IMAGES, WEIGHTS, save_classifier, train_classifier
from shapedreamer.models.recipes import DrawnData, get_recipe

from .throughput import machine


def main(
    recipes: Positional[tuple[RecipeName, ...]] = ("shapes", "patterns", "sprites", "mnist", "fashion_mnist"),
    data: str | None = None,
) -> None:
    """Train, test and save a classifier for each recipe.

    Args:
        recipes: Recipes whose data to train on.
        data: Path of MNIST's files, as for `shapedreamer train`.
    """
    for name in recipes:
        recipe = get_recipe(name, data=data if "mnist" in name else None)
        if isinstance(recipe.data, DrawnData):
            recipe = replace(recipe, data=replace(recipe.data, samples=60_000))
        training, held_out = recipe.make_data()
        start = time.perf_counter()
        network = train_classifier(training, held_out)
        card = {
            "command": f"python -m benchmarks.classifiers {name}",
            "images": str(TRAINING_IMAGES),
            "seconds": f"{time.perf_counter() - start:.0f}",
            "machine": machine(),
        }
        save_classifier(network, training.spec, WEIGHTS / f"{training.spec.name}.safetensors", card)
        accuracy = f"accuracy {100 * network.accuracy:.2f}% on held-out images"
        print(f"{name}: {len(network.known)} classes, {accuracy}, {card['seconds']} s")


if __name__ == "__main__":
    tyro.cli(main)
