"""The live page as a folder of files, with models that dream in the viewer's browser: any host of files can serve it.

    index.html, page/        the page; coi.js, threads where the host sends no headers; _headers, those it should send
    models.json              what is told of the models
    models/                  NAME.onnx; and NAME.labels, (N, L) float32 of some images, which "any" label draws from
    runtime/                 onnxruntime-web
    site.json                that this is a site of ours, of which version and files

Nothing in it asks another host for anything.
"""

import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from .. import __version__
from ..common.errors import UserError
from ..common.files import naming_disk_errors
from ..export.onnx import to_onnx
from ..models import zoo
from ..models.model import find, load
from .settings import model_info

PAGE = Path(__file__).parent / "page"
RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"  # of its tarball
RUNTIME_FILES = (
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    # for graphics cards; browsers without one do not ask for these
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
)

POLICY = {
    "default-src": "'none'",
    "script-src": "'self' 'wasm-unsafe-eval'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",
    "connect-src": "'self'",
    "worker-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{k} {v}" for k, v in {**POLICY, "frame-ancestors": "'none'"}.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

MIT = """\
MIT License

Copyright (c) {holder}

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
README = """\
# A live page of ShapeDreamer

Made by `shapedreamer site`, version {version}. Put this folder on any host of static files, under any path. To look at
it here: `python3 -m http.server`, then open the address it prints. (A browser loads no models from file:// addresses.)

With the headers of the file `_headers` several threads compute the models. Some hosts read that file; others have a
setting; where there is neither, `coi.js` sees to it in the browser, if the page comes by https or from localhost.

Models:

{models}
Licences: LICENSE of the page, runtime/LICENSE of ONNX Runtime, which runs the models.
"""


def build_site(out: Path, models: Sequence[str] = (), runtime: Path | None = None) -> None:
    """Write the site to the folder `out`, whole or not at all; a site of ours that is there is replaced.

    models:  names of models in the box, runs or checkpoints; all in the box if there are none
    runtime: the tarball of RUNTIME; without it npm fetches that

    UserError for a folder that has anything else in it, a model or runtime that is missing or damaged, a full disk.
    """
    out = out.resolve()
    _check_replaceable(out)
    named = _named(models or zoo.names())
    files = _page_files() | _runtime_files(runtime)
    with naming_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        workshop = TemporaryDirectory(prefix=".", dir=out.parent)  # on the same disk, so that to rename is to move
    with workshop:
        made = Path(workshop.name) / "site"
        infos, credits = [], []
        for name, model in named.items():
            dreamer = load(model, device="cpu")
            infos.append(model_info(name, dreamer))
            trained_on = zoo.card(name).data if find(model) == zoo.path(name) else dreamer.spec.name
            credits.append(f"- {name}: {infos[-1]['about']}; trained on {trained_on}\n")
            to_onnx(dreamer, made / "models" / f"{name}.onnx")
            if dreamer.labels is not None:
                files[f"models/{name}.labels"] = dreamer.labels.numpy().astype("<f4").tobytes()
        files["models.json"] = json.dumps(infos, ensure_ascii=False, allow_nan=False).encode()
        files["README.md"] = README.format(version=__version__, models="".join(credits)).encode()
        with naming_disk_errors(out):
            _write(files, made)
            _swap(made, out)


def _check_replaceable(out: Path) -> None:
    """UserError unless `out` is new, empty, or a site of ours and nothing else."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a new or empty folder")
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    if not found:
        return
    try:
        ours = set(json.loads((out / "site.json").read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{out} is not empty, and no site of shapedreamer; name a new or empty folder") from None
    if strange := sorted(found - ours):
        raise UserError(f"{out} has files that are none of the site's: {', '.join(strange)}; move them away first")


def _named(models: Sequence[str]) -> dict[str, str]:
    """Models by the names they have on the page: those in the box by their own, a run by its folder's."""
    named: dict[str, str] = {}
    for model in models:
        path = Path(model).resolve()
        name = path.stem if path.is_file() else path.name
        if not re.fullmatch(r"[\w-]+", name, re.ASCII):
            raise UserError(f"the model {model} would be called {name!r}: rename it to letters, digits, - and _ alone")
        if name in named:
            raise UserError(f"the models {named[name]} and {model} would both be called {name}; rename one")
        named[name] = model
    return named


def _page_files() -> dict[str, bytes]:
    """The page, told that its engine is the browser, and what a host needs to know."""
    files = {
        f"page/{path.relative_to(PAGE).as_posix()}": path.read_bytes() for path in PAGE.rglob("*") if path.is_file()
    }
    html, isolation = files.pop("page/index.html").decode(), files.pop("page/coi.js")
    policy = "; ".join(f"{k} {v}" for k, v in POLICY.items())  # for hosts that send no headers
    head = """\
<meta name="engine" content="browser" />
    <meta http-equiv="Content-Security-Policy" content="{policy}" />
    <script src="coi.js"></script>"""
    html, count = re.subn('<meta name="engine" content="server" */?>', head.format(policy=policy), html)
    assert count == 1
    return {
        **files,
        "index.html": html.encode(),
        "coi.js": isolation,  # at the root, since it serves what lies beside and below it
        "_headers": "".join(["/*\n", *(f"  {name}: {value}\n" for name, value in HEADERS.items())]).encode(),
        "LICENSE": MIT.format(holder="2026 The ShapeDreamer authors").encode(),
    }


def _runtime_files(tarball: Path | None) -> dict[str, bytes]:
    """What a site has of onnxruntime-web."""
    if tarball is None:
        with TemporaryDirectory() as folder:
            content = _fetched(Path(folder)).read_bytes()
    elif not tarball.is_file():
        raise UserError(f"there is no file {tarball}; it must be the tarball of {RUNTIME}")
    else:
        content = tarball.read_bytes()
    if (found := sha256(content).hexdigest()) != RUNTIME_SHA256:
        what = tarball or "what npm fetched"
        raise UserError(f"{what} is not {RUNTIME}: its sha256 is {found} and must be {RUNTIME_SHA256}")
    files = {"runtime/LICENSE": MIT.format(holder="Microsoft Corporation").encode()}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in RUNTIME_FILES:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None  # as the checksum is right
            files[f"runtime/{name}"] = member.read()
    return files


def _fetched(folder: Path) -> Path:
    """The tarball of RUNTIME, by npm."""
    way_out = f"or download the tarball of {RUNTIME} elsewhere, and name it with --runtime PATH"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm, which fetches {RUNTIME}, is not installed: install Node.js, {way_out}")
    done = subprocess.run([npm, "pack", "--prefer-offline", RUNTIME], cwd=folder, capture_output=True, text=True)
    tarballs = list(folder.glob("*.tgz"))
    if done.returncode or len(tarballs) != 1:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise UserError(f"npm could not fetch {RUNTIME} ({reason}): try again later, {way_out}")
    return tarballs[0]


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    """All files, and site.json with the names of all that are in the folder then."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    about = {"version": __version__, "runtime": RUNTIME, "files": sorted([*names, "site.json"])}
    (folder / "site.json").write_text(json.dumps(about, indent=1))


def _swap(made: Path, out: Path) -> None:
    """Let the folder `made` be `out`. What is there moves to beside `made`, and back if that fails."""
    before = made.with_name("before")
    if out.exists():
        out.rename(before)
    try:
        made.rename(out)
    except OSError:
        if before.exists():
            before.rename(out)
        raise
