"""An evaluation as a web page: a single file without external resources, to open anywhere or to send by e-mail."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from ..common.errors import UserError
from ..common.files import write_atomic
from ..common.values import as_path
from ..imaging import render
from .charts import bars, histogram
from .evaluator import Evaluation, Evidence
from .sweep import Point, picture, table
from .table import (
    KIND_COLUMNS,
    Measure,
    describe_features,
    describe_kinds,
    describe_sampling,
    kind_rows,
    measures,
    verdict,
)

GRID_IMAGES = 64
COLUMNS = 8
SCALE = 2  # pixels of the PNG per pixel of an image; the page enlarges it further
PAGE_FILE, GRID_FILE = "index.html", "grid.png"

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
td small { font-weight: 400 }
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
.wide { overflow-x: auto }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--edge); padding: .7rem; font-size: .85rem }
"""


def check_folder(folder: Path) -> None:
    """UserError if `folder` is a file. Call this before a long evaluation."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cannot write a report to {folder}: it is a file; choose a folder")


def write_report(
    folder: str | Path, evaluation: Evaluation, evidence: Evidence, points: Sequence[Point] = ()
) -> list[Path]:
    """Write the page (index.html) and a picture of samples (grid.png) into `folder`, and return their paths.

    points: results of a sweep to show, if any
    """
    folder = as_path("folder", folder)
    html = page(evaluation, evidence, points)
    render.save_picture(render.grid(evidence.samples[:GRID_IMAGES], COLUMNS), folder / GRID_FILE)
    write_atomic(folder / PAGE_FILE, html.encode())
    return [folder / PAGE_FILE, folder / GRID_FILE]


def page(evaluation: Evaluation, evidence: Evidence, points: Sequence[Point] = ()) -> str:
    """The report as one HTML document that loads no other resources."""
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
<p>{num} samples compared with {num} real images of {data}.</p>
<p class="soft">Sampled with {escape(describe_sampling(quality))}, in {evaluation.seconds:,.0f} seconds.</p>
{_images(evidence)}
{_numbers(measures(quality), describe_features(quality))}
{_copies(verdict(quality), evidence)}
{_shapes(quality["shapes"])}
{_sweep(points)}
</main>
</body>
</html>
"""


def _images(evidence: Evidence) -> str:
    samples, real = (render.grid(images[:GRID_IMAGES], COLUMNS, SCALE) for images in (evidence.samples, evidence.real))
    return f"""<h2>Samples and real images</h2>
<div class="two">
{_figure(samples, "a grid of samples", _key("samples", f"the first {GRID_IMAGES} samples, not selected"))}
{_figure(real, "a grid of real images", _key("real", "real images, for comparison"))}
</div>"""


def _numbers(rows: Sequence[Measure], features: str) -> str:
    body = "\n".join(
        f"""<tbody>
<tr><th scope="row"><b>{row.name}</b><small>{row.better}</small></th>
<td class="number samples">{row.samples}{_interval(row.interval)}</td>
<td class="number real">{row.real}{_interval(row.real_interval)}</td></tr>
<tr class="note"><td colspan="3">{escape(row.explanation)} <em>{escape(row.blind_spot)}</em></td></tr>
</tbody>"""
        for row in rows
    )
    return f"""<h2>The numbers</h2>
<p>The second column measures other real images in place of the samples: a perfect model scores about the same. What a
measure does not show is in italics. Ranges are 95% confidence intervals.</p>
<table>
<thead><tr><th></th><th>{_key("samples", "samples")}</th><th>{_key("real", "real images")}</th></tr></thead>
{body}
</table>
<p class="soft">{escape(features)}</p>"""


def _interval(span: str) -> str:
    return f"<br><small>{span}</small>" if span else ""


def _copies(summary: str, evidence: Evidence) -> str:
    copies = evidence.copies
    chart = histogram(
        {"samples": copies.samples.tolist(), "real": copies.held_out.tolist()},
        "histogram of the distance to the nearest training image, for samples and for unseen real images",
        "distance to the nearest training image",
    )
    distances = copies.samples[copies.pairs[:, 0]].tolist()
    pairs = "\n".join(
        _figure(render.grid(pair, 2, SCALE), "a sample and its nearest training image", f"{distance:.3f}")
        for pair, distance in zip(evidence.pairs, distances, strict=True)
    )
    return f"""<h2>Are samples copied from the training images?</h2>
<p>{escape(summary)}</p>
<div class="two">
<figure>{chart}
<figcaption>{_key("samples", "samples")}{_key("real", "unseen real images")}<br>
The distance is the root mean square difference of pixels in [−1, 1]. Copies have distance 0. If the samples lie further
left than the real images, they are copied or blurry.</figcaption></figure>
<div><div class="pairs">
{pairs}
</div>
<p class="soft">The samples that are closest to a training image. Each pair shows the sample (left), its nearest
training image (right), and their distance.</p></div>
</div>"""


def _shapes(shapes: Mapping[str, Any] | None) -> str:
    """The kinds of shapes, or nothing if the data set does not draw shapes."""
    if shapes is None:
        return ""
    parts = [_kind_table(shapes), _kind_chart(shapes["samples"]["kinds"], shapes["real"]["kinds"])]
    return "\n".join(["<h2>Kinds of shapes</h2>", *parts]) if any(parts) else ""


def _kind_table(shapes: Mapping[str, Any]) -> str:
    """The measures of each kind, or nothing if they were not computed."""
    rows = kind_rows(shapes)
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in KIND_COLUMNS)
    body = "\n".join(
        f'<tr><th scope="row"><b>{escape(kind)}</b></th>'
        + "".join(f'<td class="number">{cell}</td>' for cell in cells)
        + "</tr>"
        for kind, *cells in rows
    )
    return f"""<div class="wide"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
<p class="soft">{describe_kinds(shapes)}</p>"""


def _kind_chart(samples: Mapping[str, float] | None, real: Mapping[str, float] | None) -> str:
    """The share of each kind, or nothing if no image is valid."""
    if samples is None or real is None:
        return ""
    chart = bars(
        {"samples": list(samples.values()), "real": list(real.values())},
        {i + 0.5: kind for i, kind in enumerate(real)},
        "bar chart of the share of each kind of shape, in samples and in real images",
        "kind of shape",
    )
    return f"""<figure>{chart}
<figcaption>{_key("samples", "samples")}{_key("real", "real images")}<br>
The share of each kind among the shapes in valid images.</figcaption></figure>"""


def _sweep(points: Sequence[Point]) -> str:
    if not points:
        return ""
    return f"""<h2>Samplers and network calls</h2>
<p>Each line is a sampler. Sampling time grows with the number of network calls. Choose the sampler that gets close to
real images first, and stop where its line becomes flat.</p>
{_figure(picture(points), "quality against network calls, one line per sampler", "", "plot")}
<pre>{escape(chr(10).join(table(points)))}</pre>"""


def _figure(picture: Image.Image, alt: str, caption: str, kind: str = "") -> str:
    """A picture, embedded as a data URL, with a caption. `caption` is HTML; `kind` is the CSS class."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"""<figure><img class="{kind}" alt="{alt}" width="{picture.width}" height="{picture.height}"
src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>"""


def _key(series: str, text: str) -> str:
    """A legend entry: a square in the colour of the series, and a text."""
    return f'<span class="key {series}">{text}</span>'
