"""The README.md of an export: a model card as the Hugging Face Hub reads it, with its metadata at the top."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..models import zoo
from ..models.model import Model, find_checkpoint

PREDICTIONS = {
    "eps": "the noise ε",
    "x0": "the clean image x₀",
    "v": "the velocity v",
    "flow": "the velocity u of flow matching",
}


def shipped_name(path: str | Path) -> str:
    """The name of a shipped model if `path` stands for one, as in `load`; else ""."""
    name = str(path)
    return name if name in zoo.names() and find_checkpoint(path) == zoo.path(name) else ""


def model_card(model: Model, library: str, usage: str, notes: Sequence[str], shipped: str = "") -> str:
    """The text of the card.

    library: of the hub's metadata, such as diffusers
    usage:   how to sample, in Markdown
    notes:   what to know about the export, a paragraph each
    shipped: the name of a shipped model, whose data, training and quality the card then has
    """
    spec = model.spec
    title = f"{shipped or spec.name}, {spec.height}x{spec.width}"
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    conditional = "class-conditional" if model.labels is not None else "unconditional"
    predicted = "a logit for each hidden pixel" if model.is_masked else PREDICTIONS[model.prediction]
    facts = [
        f"{conditional} diffusion model of images ({spec.channels}, {spec.height}, {spec.width})",
        f"{type(model.network).__name__}, {parameters:,} parameters, which predicts {predicted}",
        f"trained with timesteps 1 to {model.schedule.T}",
    ]
    if model.labels is not None:
        facts.append(f"labels: {', '.join(f'{i} {label}' for i, label in enumerate(spec.labels))}")
    if model.config is not None:
        recipe = model.config.recipe
        facts.append(f"recipe {recipe.name}: schedule {recipe.schedule}, {recipe.epochs} epochs, seed {recipe.seed}")
    if shipped:
        card = zoo.card(shipped)
        facts += [
            f"training data: {card.data}",
            f"trained by `{'`, then `'.join(card.commands)}` in {card.minutes:g} minutes on {card.machine}",
            *_quality(card.quality),
        ]
    metadata: dict[str, str | list[str]] = {
        "library_name": library,
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["shapedreamer", "diffusion", conditional, "image-generation"],
    }
    parts = [
        f"---\n{_yaml(metadata)}---\n\n# {title}",
        *([zoo.card(shipped).about.capitalize() + "."] if shipped else []),
        "\n".join(f"- {fact}" for fact in facts),
        f"## Use\n\n{usage}",
        "## Notes",
        *notes,
        f"Exported by shapedreamer {__version__}.",
    ]
    return "\n\n".join(parts) + "\n"


def _quality(quality: Mapping[str, Any]) -> list[str]:
    """What was measured, as sentences: FID, and the accuracy of the labels and the shapes, if there are any."""
    fid, accuracy = quality.get("fid"), quality.get("label_accuracy")
    how = f"{quality.get('num')} samples, {quality.get('sampler')} with {quality.get('steps')} network calls"
    found = [f"FID {fid['samples']:.3f} (of real images: {fid['real']:.3f}); {how}"] if fid else []
    if accuracy:
        found.append(f"{accuracy['samples']:.1%} of samples show their label; of real images, {accuracy['real']:.1%}")
    if shapes := quality.get("shapes"):
        for name in ("valid", "intact", "exact"):
            if name in shapes["samples"]:
                samples, real = shapes["samples"][name], shapes["real"][name]
                found.append(f"{name} shapes: {samples:.1%} of samples; of real images, {real:.1%}")
    return found


def _yaml(metadata: Mapping[str, str | list[str]]) -> str:
    """Metadata as YAML. A JSON string is a YAML string."""
    lines = []
    for key, value in metadata.items():
        if isinstance(value, str):
            lines.append(f"{key}: {json.dumps(value)}")
        else:
            lines += [f"{key}:", *(f"  - {json.dumps(item)}" for item in value)]
    return "\n".join(lines) + "\n"
