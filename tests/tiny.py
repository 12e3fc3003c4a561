"""Recipes so small that a whole run takes about a second, for tests of everything around training."""

from dataclasses import replace

from shapedreamer.models.recipes import DrawnData, NoiseLevels, Recipe, UNetConfig

SMALL = UNetConfig(channels=(8, 16), groups=4, head_dim=8, attention=(1,), patch=4)

# eps-prediction, linear schedule and constant learning rate, as in DDPM
TINY = Recipe(
    name="tiny",
    data=DrawnData("shapes", samples=64),
    network=SMALL,
    timesteps=50,
    epochs=3,
    batch_size=16,
    lr=1e-3,
)

# x0-prediction, Muon and a falling learning rate, as in the recipes that are not textbook
TUNED = replace(
    TINY,
    schedule="cosine",
    prediction="x0",
    noise_levels=NoiseLevels(-2, 1.8, 0.25),
    optimizer="muon",
    lr_decay=True,
)

CONDITIONAL = replace(TUNED, labels=True, label_dropout=0.2)
