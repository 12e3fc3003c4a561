"""The model card of an export has the quality of a shipped model."""

import shapedreamer as sd
from shapedreamer.export.card import model_card
from shapedreamer.models import zoo


def test_the_card_of_shapes_says_how_many_samples_are_shapes() -> None:
    shapes = zoo.card("shapes").quality["shapes"]
    card = model_card(sd.load("shapes", device="cpu"), "diffusers", "Call it.", [], shipped="shapes")
    for name in {"valid", "intact", "exact"} & shapes["samples"].keys():
        samples, real = shapes["samples"][name], shapes["real"][name]
        assert f"- {name} shapes: {samples:.1%} of samples; of real images, {real:.1%}\n" in card
    assert "valid shapes" in card
    assert "shapes:" not in model_card(sd.load("mnist", device="cpu"), "diffusers", "Call it.", [], shipped="mnist")
