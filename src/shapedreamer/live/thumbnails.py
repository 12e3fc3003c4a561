"""Small pictures of what a shipped model generates, for the list of models on the page."""

import base64
import io

from PIL import Image

from ..data.spec import DataSpec
from ..imaging.render import MARGIN
from ..models import zoo

COLUMNS = 8  # of the card's picture, which is a grid of samples
SHOWN = 4  # samples in a thumbnail


def thumbnail(name: str, spec: DataSpec) -> str | None:
    """The first samples on the card of a shipped model, in a row, as a data URL of a PNG; None for any other model."""
    if name not in zoo.names():
        return None
    with Image.open(zoo.path(name).with_suffix(".png")) as card:
        tile = card.width // COLUMNS
        scale = (tile - 2 * MARGIN) // spec.width
        row = Image.new(card.mode, (SHOWN * spec.width, spec.height))
        for i in range(SHOWN):
            left = i * tile + MARGIN
            sample = card.crop((left, MARGIN, left + scale * spec.width, MARGIN + scale * spec.height))
            row.paste(sample.resize((spec.width, spec.height), Image.Resampling.NEAREST), (i * spec.width, 0))
    file = io.BytesIO()
    row.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
