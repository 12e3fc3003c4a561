"""An evaluation as a page: one file with everything in it, for a phone, a desk, or a mail."""

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from PIL import Image

from ..common.errors import UserError
from ..common.files import write_atomic
from ..imaging import render
from .charts import bars, histogram
from .evaluator import Evaluation, Evidence
from .sweep import Point, picture, table
from .table import Measure, judged_by, measures, sampled, verdict

SHOWN = 64  # images of each kind
COLUMNS = 8
SCALE = 2  # of a pixel in the file; the page enlarges it further
PAGE, GRID = "index.html", "grid.png"

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #fff; --ink: #1d1d1f; --soft: #63636b; --edge: #e3e0da;
  --samples: #c2540a; --real: #3b7ea1 }
@media (prefers-color-scheme: dark) { :root { --paper: #131316; --card: #1d1d21; --ink: #ececf0; --soft: #a2a2ad;
  --edge: #34343b; --samples: #ff9a52; --real: #6fb7dc } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1rem 4rem }
h1 { font-size: clamp(1.6rem, 5vw, 2.4rem); line-height: 1.15; margin: 0 0 .5rem; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; margin: 3rem 0 .75rem }
p { margin: .4rem 0; max-width: 44rem }
.soft, small, figcaption, .note { color: var(--soft) }
.two { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)) }
.pairs { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)) }
figure { margin: 0 }
figcaption { font-size: .9rem; margin-top: .35rem }
img { display: block; width: 100%; height: auto; image-rendering: pixelated; border-radius: .4rem }
img.plot { image-rendering: auto; background: #fff; max-width: 48rem }
table { width: 100%; border-collapse: collapse; background: var(--card); border: 1px solid var(--edge) }
th, td { padding: .55rem .7rem; text-align: left; font-weight: 400; vertical-align: baseline }
thead th { font-size: .85rem; color: var(--soft) }
tbody { border-top: 1px solid var(--edge) }
th b { font-weight: 650; margin-right: .5rem }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
thead th + th { text-align: right }
td.samples { color: var(--samples); font-weight: 650 }
td.real { color: var(--real) }
.note td { padding-top: 0; font-size: .9rem; line-height: 1.45 }
.key::before { content: ""; display: inline-block; width: .75em; height: .75em; margin-right: .4em; border-radius: 2px }
.key.samples::before { background: var(--samples) }
.key.real::before { background: var(--real) }
.key { margin-right: 1rem; white-space: nowrap }
svg { display: block; width: 100%; max-width: 36rem; font-size: 12px; background: var(--card);
  border: 1px solid var(--edge); border-radius: .4rem }
svg text { fill: var(--soft) }
svg path { stroke: var(--edge) }
svg .samples { fill: var(--samples) }
svg .real { fill: var(--real) }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--edge); padding: .7rem; font-size: .85rem }
"""


def check_folder(folder: Path) -> None:
    """UserError if a report cannot be put there, before anything is computed for it."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and a report is a folder: choose another name")


def write_report(folder: Path, evaluation: Evaluation, evidence: Evidence, points: Sequence[Point] = ()) -> list[Path]:
    """Write the page (index.html) and a picture of samples (grid.png) into a folder, and return their paths.

    points: of a sweep, to be shown as well
    """
    html = page(evaluation, evidence, points)
    render.save_picture(render.grid(evidence.samples[:SHOWN], COLUMNS), folder / GRID)
    write_atomic(folder / PAGE, html.encode())
    return [folder / PAGE, folder / GRID]


def page(evaluation: Evaluation, evidence: Evidence, points: Sequence[Point] = ()) -> str:
    """The report as one HTML document, which loads nothing from anywhere."""
    quality = asdict(evaluation)
    name, data, num = escape(evaluation.model), escape(evaluation.data), f"{evaluation.num:,}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>How good is {name}?</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>How good is {name}?</h1>
<p>{num} samples beside {num} real images of {data}.</p>
<p class="soft">Sampled with {escape(sampled(quality))}. It took {evaluation.seconds:,.0f} seconds.</p>
{_images(evidence)}
{_numbers(measures(quality), judged_by(quality))}
{_copies(verdict(quality), evidence)}
{_shapes(evaluation)}
{_sweep(points)}
</main>
</body>
</html>
"""


def _images(evidence: Evidence) -> str:
    samples, real = (render.grid(images[:SHOWN], COLUMNS, SCALE) for images in (evidence.samples, evidence.real))
    return f"""<h2>See for yourself</h2>
<div class="two">
{_figure(samples, "a grid of samples", _key("samples", "samples: the first ones, not chosen"))}
{_figure(real, "a grid of real images", _key("real", "real images, in place of samples"))}
</div>"""


def _numbers(rows: Sequence[Measure], features: str) -> str:
    body = "\n".join(
        f"""<tbody>
<tr><th scope="row"><b>{row.name}</b><small>{row.better}</small></th>
<td class="number samples">{row.samples}</td><td class="number real">{row.real}</td></tr>
<tr class="note"><td colspan="3">{escape(row.means)} <em>{escape(row.blind)}</em></td></tr>
</tbody>"""
        for row in rows
    )
    return f"""<h2>The numbers</h2>
<p>A number means something only beside that of real images, which were measured as if they were samples.</p>
<table>
<thead><tr><th></th><th>{_key("samples", "samples")}</th><th>{_key("real", "real images")}</th></tr></thead>
{body}
</table>
<p class="soft">{escape(features)}</p>"""


def _copies(verdict: str, evidence: Evidence) -> str:
    copies = evidence.copies
    chart = histogram(
        {"samples": copies.samples.tolist(), "real": copies.held_out.tolist()},
        "distances to the nearest training image, of samples and of real images that the model has not seen",
        "distance to the nearest training image",
    )
    distances = copies.samples[copies.pairs[:, 0]].tolist()
    pairs = "\n".join(
        _figure(render.grid(pair, 2, SCALE), "a sample, and the training image nearest to it", f"{distance:.3f}")
        for pair, distance in zip(evidence.pairs, distances, strict=True)
    )
    return f"""<h2>New, or copied?</h2>
<p>{escape(verdict)}</p>
<div class="two">
<figure>{chart}
<figcaption>{_key("samples", "samples")}{_key("real", "real images that the model has not seen")}<br>
The distance is the root of the mean square difference of pixels between −1 and 1; a copy has 0.</figcaption></figure>
<div><div class="pairs">
{pairs}
</div>
<p class="soft">The samples nearest to a training image, each to the left of that image, with their distance.</p></div>
</div>"""


def _shapes(evaluation: Evaluation) -> str:
    """The kinds of shapes that were found, where the data set is one of shapes and there are any."""
    shapes = evaluation.shapes
    if shapes is None or shapes.samples.kinds is None or shapes.real.kinds is None:
        return ""
    chart = bars(
        {"samples": list(shapes.samples.kinds.values()), "real": list(shapes.real.kinds.values())},
        {i + 0.5: kind for i, kind in enumerate(shapes.real.kinds)},
        "the share of each kind of shape, in samples and in real images",
        "kind of shape",
    )
    return f"""<h2>Which shapes</h2>
<figure>{chart}
<figcaption>{_key("samples", "samples")}{_key("real", "real images")}<br>
The share of each kind among the shapes in valid images.</figcaption></figure>"""


def _sweep(points: Sequence[Point]) -> str:
    if not points:
        return ""
    return f"""<h2>How to sample it</h2>
<p>More network calls take longer. The line to choose is the one that comes near to real images first, and the point is
the one from which on it is flat.</p>
{_figure(picture(points), "quality against network calls, a line for each sampler", "", "plot")}
<pre>{escape(chr(10).join(table(points)))}</pre>"""


def _figure(picture: Image.Image, alt: str, caption: str, kind: str = "") -> str:
    """A picture in the page itself, with a caption, which is HTML."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"""<figure><img class="{kind}" alt="{alt}" width="{picture.width}" height="{picture.height}"
src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>"""


def _key(series: str, words: str) -> str:
    return f'<span class="key {series}">{words}</span>'
