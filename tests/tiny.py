"""Recipes so small that a whole run takes a second, for tests of everything around the training."""

from dataclasses import replace

from shapedreamer.models.recipes import DrawnData, NoiseLevels, Recipe, UNetConfig

SMALL = UNetConfig(channels=(8, 16), groups=4, head_dim=8, attention=(1,), patch=4)
TINY = Recipe(
    name="tiny",
    data=DrawnData("shapes", samples=64),
    network=SMALL,
    timesteps=50,
    epochs=3,
    batch_size=16,
    lr=1e-3,
)
FALLING = replace(
    TINY,
    schedule="cosine",
    prediction="x0",
    noise_levels=NoiseLevels(-2, 1.8, 0.25),
    optimizer="muon",
    lr_decay=True,
)
TOLD = replace(FALLING, labels=True, label_dropout=0.2)
