"""Any folder of pictures: PNG, JPEG, WebP, GIF (the first frame) and BMP files, and arrays saved by NumPy.

    cats/a.png, dogs/old/b.jpg     the first level of subfolders are the labels
    a.png, b.jpg                   no labels; beside subfolders, such pictures have none of the labels
    many.npy                       (N, H, W), (N, H, W, C), (H, W) or (H, W, C) uint8; C = 1, 3 or 4, and a last axis of
                                   1, 3 or 4 is taken for C
    many.npz                       one such array under any name, and maybe one called `labels`: class numbers (N,) or
                                   vectors (N, L), which then count in place of the subfolders

Files that cannot be read are skipped, and said so on stderr. Hidden files and other endings are ignored, and counted.
Colour profiles are not applied, and of 16 bits the upper 8 are kept.
"""

import contextlib
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...common.errors import UserError
from ...common.names import Fit, Mode
from ..arrays import Arrays, one_hot, split

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # Pillow tries no others, some of which start other programs
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
ARRAYS = (".npy", ".npz")
CHANNELS = (1, 3, 4)
MOST_LABELS = 1000
MOST_NAMED = 10  # files in the report, and sizes in the error
PATIENCE = 2.0  # seconds without a progress bar


def load(
    path: Path,
    size: tuple[int, int] | None = None,
    fit: Fit = "none",
    mode: Mode = "auto",
    background: str = "white",
    samples: int | None = None,
) -> tuple[Arrays, Arrays]:
    """The pictures of a folder, in the order of their paths, split by arrays.split: to train on, and held out.

    size        (height, width) of the images; None if all pictures are of one size
    fit         how a picture of another size comes to it. crop: scaled until it covers the frame, and its centre cut
                out; pad: scaled until it fits into the frame, which is filled with `background`; stretch: scaled
    mode        L is grey; auto is L if every picture is grey, and RGB otherwise. RGBA alone keeps transparency
    background  a colour, by its CSS name or as #rrggbb, that transparent pictures are laid on
    samples     how many images to train on; all if None

    UserError if pictures differ in size and `fit` is none, if no file can be read, if an array is not as above, or if
    labels do not go together.
    """
    for value, right in ((fit, Fit), (mode, Mode)):
        if value not in get_args(right):
            raise UserError(f"{value!r} is none of {', '.join(get_args(right))}")
    if size is not None and min(size) < 1:
        raise UserError(f"a size must be at least 1x1, not {_name(size)}")
    if samples is not None and samples < 1:
        raise UserError(f"samples must be at least 1, not {samples}")
    try:
        ImageColor.getrgb(background)
    except ValueError:
        raise UserError(f"{background!r} is no colour: write a name like white, or #rrggbb") from None
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; give one that holds pictures, or subfolders of pictures")

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            everything = _read(Folder(path), size, fit, mode, background)
        except MemoryError:
            raise UserError(f"the images of {path} do not fit into memory; choose a smaller --size HxW") from None
    return split(everything, samples)


class Folder:
    """What a folder holds: the files to read, and what became of the others.

    files     sorted by path
    arrays    images (N, H, W, C) uint8, and labels if there are any, of each file that NumPy saved
    skipped   files, and folders, that could not be read, and why
    ignored   "hidden" or an ending -> how many files
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[Path] = []
        self.arrays: dict[Path, tuple[np.ndarray, np.ndarray | None]] = {}
        self.skipped: dict[Path, str] = {}
        self.ignored: Counter[str] = Counter()
        self._walk(root, frozenset())
        self.files.sort(key=self.relative)  # as text, which has the same order on every system
        for file in self.files:
            with self.skipping(file):
                if not file.is_file():  # to open a pipe would be to wait for somebody to write into it
                    raise OSError("not a file, or a link to nothing")
                if not file.stat().st_size:
                    raise OSError("empty")
                if file.suffix.lower() in ARRAYS:
                    self.arrays[file] = _load_array(file)

    def _walk(self, folder: Path, above: frozenset[tuple[int, int]]) -> None:
        with self.skipping(folder):
            status = folder.stat()
            here = (status.st_dev, status.st_ino)
            if here in above:  # a link to a folder that it lies in
                return
            for entry in folder.iterdir():
                ending = entry.suffix.lower()
                if entry.name.startswith("."):
                    self.ignored["hidden"] += 1
                elif entry.is_dir():
                    self._walk(entry, above | {here})
                elif ending in PICTURES + ARRAYS:
                    self.files.append(entry)
                else:
                    self.ignored[ending or "without an ending"] += 1

    def relative(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    @contextlib.contextmanager
    def skipping(self, file: Path) -> Iterator[None]:
        """Go on without a file if it cannot be read, and note why."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # decoders meet broken bytes with errors of nearly every kind
            reason = error.strerror if isinstance(error, OSError) else None
            self.skipped[file] = reason or str(error) or type(error).__name__

    def read(self, file: Path) -> np.ndarray:
        """The images in a file: (N, H, W, 1, 3 or 4) uint8. There are none if it cannot be read."""
        if file in self.arrays:
            return self.arrays[file][0]
        if file not in self.skipped:
            with self.skipping(file):
                return _load_picture(file)[None]
        return np.empty((0, 1, 1, 1), np.uint8)

    def sizes(self) -> Counter[tuple[int, int]]:
        """(height, width) -> how many images, as the heads of the files say."""
        sizes: Counter[tuple[int, int]] = Counter()
        for file in self.files:
            if file in self.arrays:
                images, _ = self.arrays[file]
                sizes[images.shape[1:3]] += len(images)
            elif file not in self.skipped:
                with self.skipping(file), _open(file) as picture:
                    # Image's own getexif, as a PNG's would decode the picture to look behind it too
                    turned = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1) >= 5
                    sizes[picture.size if turned else picture.size[::-1]] += 1
        return sizes

    def report(self) -> None:
        """Say on stderr what is left out, if anything is."""
        lines = []
        if self.skipped:
            lines.append(
                f"{len(self.skipped)} of {len({*self.files, *self.skipped})} files in {self.root} were skipped:"
            )
            for file in sorted(self.skipped, key=self.relative)[:MOST_NAMED]:
                lines.append(f"  {self.relative(file)}: {self.skipped[file]}")
            if len(self.skipped) > MOST_NAMED:
                lines.append(f"  and {len(self.skipped) - MOST_NAMED} more")
        if self.ignored:
            kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(self.ignored.items()))
            lines.append(f"ignored in {self.root}, for their names are not those of pictures: {kinds}")
        if lines:
            print("\n".join(lines), file=sys.stderr)


def _read(folder: Folder, size: tuple[int, int] | None, fit: Fit, mode: Mode, background: str) -> Arrays:
    """All images of a folder; the arguments are those of `load`."""
    wanted = size
    room = sum(len(folder.arrays[file][0]) if file in folder.arrays else 1 for file in folder.files)
    images: np.ndarray = np.empty(0, np.uint8)
    count = 0
    numbers: Counter[Path] = Counter()  # of images, from each file that could be read
    with _progress(len(folder.files)) as advance:
        for file in folder.files:
            for image in folder.read(file):
                here = image.shape[:2]
                wanted = wanted or here
                if here != wanted and (size is None or fit == "none"):
                    raise _different_sizes(folder, size)
                pixels = _fitted(image, wanted, fit, mode, background)
                if not count:
                    images = np.empty((room, *pixels.shape), np.uint8)
                elif pixels.shape[2] > images.shape[3]:  # the first colour after nothing but grey
                    images = np.repeat(images, pixels.shape[2], axis=3)
                images[count] = pixels
                count += 1
                numbers[file] += 1
            advance()
    folder.report()
    if not count:
        raise UserError(f"no picture in {folder.root} can be read; it may hold {' '.join(PICTURES + ARRAYS)}")
    labels, names = _labels(folder, numbers)
    return Arrays(_printable(folder.root.resolve().name), images[:count], labels, names)


def _different_sizes(folder: Folder, size: tuple[int, int] | None) -> UserError:
    sizes = folder.sizes().most_common()
    commonest = ", ".join(f"{_name(one)} ({number})" for one, number in sizes[:MOST_NAMED])
    more = f" and {len(sizes) - MOST_NAMED} other sizes" if len(sizes) > MOST_NAMED else ""
    return UserError(
        f"the pictures in {folder.root} are not all {_name(size) if size else 'of one size'} (height x width): "
        f"{commonest}{more}; choose --size HxW, with --fit crop, pad or stretch"
    )


def _name(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _printable(name: str) -> str:
    """A file's name as text that can be written to any file: it may hold bytes that are no text."""
    return name.encode(errors="backslashreplace").decode()


# from a file to pixels


def _open(file: Path) -> Image.Image:
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise OSError(f"neither {', '.join(FORMATS[:-1])} nor {FORMATS[-1]}") from None


def _load_picture(file: Path) -> np.ndarray:
    """(H, W, C) uint8; C is 4 if there is transparency, and otherwise 3, or 1 for grey of 16 bits."""
    with _open(file) as picture:
        ImageOps.exif_transpose(picture, in_place=True)
        if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
            deep = np.asarray(picture).astype(np.int32)
            grey = (deep >> 8).astype(np.uint8)[..., None]
            opaque = deep != picture.info.get("transparency", -1)
            return grey if opaque.all() else np.dstack([grey, grey, grey, opaque.astype(np.uint8) * 255])
        return np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))


def _load_array(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Images (N, H, W, C) uint8, and labels if there are any: (N,) integers or (N, L) numbers.

    UserError for arrays that cannot be these.
    """
    with file.open("rb") as handle:
        try:
            loaded = np.load(handle, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                images, labels = loaded, None
            else:
                names = [name for name in loaded.files if name != "labels"]
                if len(names) != 1:
                    there = ", ".join(names) or "none"
                    raise UserError(f"{file} must hold one array beside `labels`, the images; it holds: {there}")
                images = loaded[names[0]]
                labels = loaded["labels"] if "labels" in loaded.files else None
        except (ValueError, EOFError):
            raise ValueError("cut short, or not an array of numbers") from None

    shape = images.shape
    if images.dtype != np.uint8:
        raise UserError(
            f"{file} holds {images.dtype} and must hold uint8, 0…255: from [-1, 1] that is "
            "((x + 1) * 127.5).round().astype('uint8'), from [0, 1] (x * 255).round().astype('uint8')"
        )
    if images.ndim == 2 or (images.ndim == 3 and shape[2] in CHANNELS):
        images = images[None]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in CHANNELS or not images.size:
        raise UserError(f"{file} is {shape} and must be (N, H, W), (N, H, W, C), (H, W) or (H, W, C), C = 1, 3 or 4")
    if labels is not None:
        classes = labels.ndim == 1 and labels.dtype.kind in "iu" and labels.min(initial=0) >= 0
        vectors = labels.ndim == 2 and labels.dtype.kind in "biuf" and np.isfinite(labels).all()
        if not (classes or vectors) or len(labels) != len(images):
            raise UserError(
                f"the labels in {file} are {labels.shape} {labels.dtype} and must be class numbers, ({len(images)},) "
                f"integers from 0, or vectors, ({len(images)}, L) finite numbers"
            )
    return images, labels


# from pixels to an image


def _fitted(image: np.ndarray, size: tuple[int, int], fit: Fit, mode: Mode, background: str) -> np.ndarray:
    """Pixels (h, w, C) as an image (H, W, C); the other arguments are those of `load`."""
    picture = Image.fromarray(image if image.shape[2] > 1 else image[..., 0])
    if picture.mode == "RGBA" and mode != "RGBA":
        below = Image.new("RGBA", picture.size, ImageColor.getrgb(background)[:3])
        picture = Image.alpha_composite(below, picture)
    # for auto all is done in RGB, as the background may be coloured; what is grey in the end is found by looking
    picture = _to_size(picture.convert("RGB" if mode == "auto" else mode), size, fit, background)
    pixels = np.asarray(picture).reshape(*size, -1)
    grey = mode == "auto" and (pixels == pixels[..., :1]).all()
    return pixels[..., :1] if grey else pixels


def _to_size(picture: Image.Image, size: tuple[int, int], fit: Fit, background: str) -> Image.Image:
    (w, h), (H, W) = picture.size, size
    if (h, w) == size or fit == "stretch":
        return _scaled(picture, W, H)
    if fit == "crop":
        # the largest part of the frame's shape
        part_w, part_h = min(w, max(1, round(h * W / H))), min(h, max(1, round(w * H / W)))
        left, top = (w - part_w) // 2, (h - part_h) // 2
        return _scaled(picture.crop((left, top, left + part_w, top + part_h)), W, H)
    inner_w, inner_h = min(W, max(1, round(w * H / h))), min(H, max(1, round(h * W / w)))
    frame = Image.new(picture.mode, (W, H), ImageColor.getcolor(background, picture.mode))
    frame.paste(_scaled(picture, inner_w, inner_h), ((W - inner_w) // 2, (H - inner_h) // 2))
    return frame


def _scaled(picture: Image.Image, W: int, H: int) -> Image.Image:
    """Whole factors keep pixel art sharp: each pixel becomes a block of equal ones, or each block its mean."""
    w, h = picture.size
    if W % w == 0 and H % h == 0:
        how = Image.Resampling.NEAREST
    elif w % W == 0 and h % H == 0:
        how = Image.Resampling.BOX
    elif W <= w and H <= h:
        how = Image.Resampling.LANCZOS
    else:
        how = Image.Resampling.BICUBIC
    return picture.resize((W, H), how)


# labels


def _labels(folder: Folder, numbers: Counter[Path]) -> tuple[np.ndarray, list[str]]:
    """Labels (N, L) and their names, for so many images of each of these files."""
    own = {file: folder.arrays[file][1] for file in numbers if file in folder.arrays}
    given = [labels for labels in own.values() if labels is not None]
    if not given:
        return _subfolders(folder, numbers)
    for file in numbers:
        if own.get(file) is None:
            raise UserError(
                f"{file} has no `labels`, which another array in {folder.root} has; give them to all, or none"
            )
    if len({labels.shape[1:] for labels in given}) > 1:
        raise UserError(f"the `labels` of the arrays in {folder.root} differ: {', '.join(str(x.shape) for x in given)}")
    labels = np.concatenate(given)
    if labels.ndim == 1:
        count = int(labels.max()) + 1
        _check_number(folder, count)
        labels = one_hot(labels.astype(np.int64), count)
    return labels, [str(i) for i in range(labels.shape[1])]


def _subfolders(folder: Folder, numbers: Counter[Path]) -> tuple[np.ndarray, list[str]]:
    """Each image's subfolder as a label, but none for those at the top."""
    paths = [file.relative_to(folder.root).parts for file in numbers]
    names = sorted({path[0] for path in paths if len(path) > 1})
    _check_number(folder, len(names))
    places = {name: i for i, name in enumerate(names)}
    classes = [places[path[0]] if len(path) > 1 else len(names) for path in paths]
    labels = one_hot(np.repeat(classes, list(numbers.values())), len(names) + 1)[:, :-1]
    return labels, [_printable(name) for name in names]


def _check_number(folder: Folder, labels: int) -> None:
    if labels > MOST_LABELS:
        raise UserError(f"{folder.root} has {labels} labels, and there may be {MOST_LABELS} at most")


# the screen


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr with the time left, if it takes longer than PATIENCE. It gives what to call after each file."""
    columns = TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True)
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task("", total=total)
    began = time.monotonic()

    def advance() -> None:
        progress.advance(task)
        if time.monotonic() - began > PATIENCE:
            progress.start()

    try:
        yield advance
    finally:
        if progress.live.is_started:
            progress.stop()
