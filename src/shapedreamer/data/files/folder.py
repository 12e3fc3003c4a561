"""A folder of your own images: PNG, JPEG, WebP, GIF (the first frame) and BMP files, and NumPy arrays.

    cats/a.png, dogs/old/b.jpg     the first level of subfolders gives the labels
    a.png, b.jpg                   no labels; next to subfolders, the label vectors of these images are all zeros
    many.npy                       (N, H, W), (N, H, W, C), (H, W) or (H, W, C) uint8, with C = 1, 3 or 4; a last axis
                                   of length 1, 3 or 4 is taken to be C
    many.npz                       one such array under any name, and optionally `labels`: class numbers (N,) or
                                   vectors (N, L), which replace the labels from subfolders

Files that cannot be read are skipped and reported on stderr. Hidden files and files with other extensions are ignored
and counted. Colour profiles are not applied. Of 16-bit channels, only the upper 8 bits are kept.
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

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # the only ones Pillow may try, as some others start programs
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
ARRAY_EXTENSIONS = (".npy", ".npz")
CHANNELS = (1, 3, 4)
MAX_LABELS = 1000
MAX_LISTED = 10  # files in the report, and sizes in an error
PROGRESS_DELAY = 2.0  # seconds before the progress bar appears


def load(
    path: Path,
    size: tuple[int, int] | None = None,
    fit: Fit = "none",
    mode: Mode = "auto",
    background: str = "white",
    samples: int | None = None,
) -> tuple[Arrays, Arrays]:
    """Read all images in a folder, sorted by path; arrays.split divides them into training and held-out data.

    size        (height, width) of the result; None if all images have the same size
    fit         how to bring an image of another size to `size`. crop: scale it to cover the frame, and cut out the
                centre; pad: scale it to fit into the frame, and fill the rest with `background`; stretch: scale height
                and width independently
    mode        L is greyscale; auto is L if every image is grey, and RGB otherwise; only RGBA keeps transparency
    background  colour to put behind transparent images: a CSS name or #rrggbb
    samples     number of training images; None for all

    UserError if images differ in size and `fit` is none, if no file can be read, if an array has none of the forms
    above, or if labels are inconsistent.
    """
    for name, value, choices in (("fit", fit, get_args(Fit)), ("mode", mode, get_args(Mode))):
        if value not in choices:
            raise UserError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    if size is not None and min(size) < 1:
        raise UserError(f"size must be at least 1x1, not {_format_size(size)}")
    if samples is not None and samples < 1:
        raise UserError(f"samples must be at least 1, not {samples}")
    try:
        ImageColor.getrgb(background)
    except ValueError:
        raise UserError(f"{background!r} is not a colour; use a name such as white, or #rrggbb") from None
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; pass a folder of images, or of subfolders with images")

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            images = _read(Folder(path), size, fit, mode, background)
        except MemoryError:
            raise UserError(f"the images in {path} do not fit into memory; choose a smaller --size HxW") from None
    return split(images, samples)


class Folder:
    """The contents of a folder: the files to read, and those that were skipped or ignored.

    files     image and array files, sorted by path
    arrays    for each file saved by NumPy: images (N, H, W, C) uint8, and labels or None
    skipped   files and folders that could not be read -> why
    ignored   "hidden" or an extension -> number of files
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[Path] = []
        self.arrays: dict[Path, tuple[np.ndarray, np.ndarray | None]] = {}
        self.skipped: dict[Path, str] = {}
        self.ignored: Counter[str] = Counter()
        self._walk(root, frozenset())
        self.files.sort(key=self.relative)  # as text, which gives the same order on every system
        for file in self.files:
            with self.skipping(file):
                if not file.is_file():  # opening a named pipe would block until another program writes to it
                    raise OSError("not a regular file, or a broken link")
                if not file.stat().st_size:
                    raise OSError("empty")
                if file.suffix.lower() in ARRAY_EXTENSIONS:
                    self.arrays[file] = _load_array(file)

    def _walk(self, folder: Path, parents: frozenset[tuple[int, int]]) -> None:
        with self.skipping(folder):
            status = folder.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in parents:  # a link to one of its own parents
                return
            for entry in folder.iterdir():
                extension = entry.suffix.lower()
                if entry.name.startswith("."):
                    self.ignored["hidden"] += 1
                elif entry.is_dir():
                    self._walk(entry, parents | {identity})
                elif extension in IMAGE_EXTENSIONS + ARRAY_EXTENSIONS:
                    self.files.append(entry)
                else:
                    self.ignored[extension or "without extension"] += 1

    def relative(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    @contextlib.contextmanager
    def skipping(self, file: Path) -> Iterator[None]:
        """If reading the file fails, record why in `skipped` and continue."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # decoders raise almost any exception on damaged files
            reason = error.strerror if isinstance(error, OSError) else None
            self.skipped[file] = reason or str(error) or type(error).__name__

    def read(self, file: Path) -> np.ndarray:
        """Return the images in a file: (N, H, W, C) uint8, with C = 1, 3 or 4, and N = 0 if it cannot be read."""
        if file in self.arrays:
            return self.arrays[file][0]
        if file not in self.skipped:
            with self.skipping(file):
                return _load_image(file)[None]
        return np.empty((0, 1, 1, 1), np.uint8)

    def sizes(self) -> Counter[tuple[int, int]]:
        """Count the images of each (height, width), according to the headers of the files."""
        sizes: Counter[tuple[int, int]] = Counter()
        for file in self.files:
            if file in self.arrays:
                images, _ = self.arrays[file]
                sizes[images.shape[1:3]] += len(images)
            elif file not in self.skipped:
                with self.skipping(file), _open(file) as image:
                    # the base class's getexif: that of a PNG would decode the pixels to find metadata after them
                    rotated = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) >= 5
                    sizes[image.size if rotated else image.size[::-1]] += 1
        return sizes

    def report(self) -> None:
        """Print to stderr which files were skipped or ignored, if any were."""
        lines = []
        if self.skipped:
            lines.append(f"skipped {len(self.skipped)} of {len({*self.files, *self.skipped})} files in {self.root}:")
            for file in sorted(self.skipped, key=self.relative)[:MAX_LISTED]:
                lines.append(f"  {self.relative(file)}: {self.skipped[file]}")
            if len(self.skipped) > MAX_LISTED:
                lines.append(f"  and {len(self.skipped) - MAX_LISTED} more")
        if self.ignored:
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.ignored.items()))
            lines.append(f"ignored files in {self.root}: {counts}")
        if lines:
            print("\n".join(lines), file=sys.stderr)


def _read(folder: Folder, size: tuple[int, int] | None, fit: Fit, mode: Mode, background: str) -> Arrays:
    """Read all images of a folder; the other parameters are those of `load`."""
    target = size
    capacity = sum(len(folder.arrays[file][0]) if file in folder.arrays else 1 for file in folder.files)
    images: np.ndarray = np.empty(0, np.uint8)
    total = 0
    counts: Counter[Path] = Counter()  # of images from each file that could be read
    with _progress(len(folder.files)) as advance:
        for file in folder.files:
            for image in folder.read(file):
                image_size = image.shape[:2]
                target = target or image_size
                if image_size != target and (size is None or fit == "none"):
                    raise _different_sizes(folder, size)
                pixels = _fit(image, target, fit, mode, background)
                if not total:
                    images = np.empty((capacity, *pixels.shape), np.uint8)
                elif pixels.shape[2] > images.shape[3]:  # the first colour image; all before it were grey
                    images = np.repeat(images, pixels.shape[2], axis=3)
                images[total] = pixels
                total += 1
                counts[file] += 1
            advance()
    folder.report()
    if not total:
        supported = " ".join(IMAGE_EXTENSIONS + ARRAY_EXTENSIONS)
        raise UserError(f"no image in {folder.root} could be read; supported files: {supported}")
    labels, names = _labels(folder, counts)
    return Arrays(_printable(folder.root.resolve().name), images[:total], labels, names)


def _different_sizes(folder: Folder, size: tuple[int, int] | None) -> UserError:
    sizes = folder.sizes().most_common()
    listed = ", ".join(f"{_format_size(shape)} ({count})" for shape, count in sizes[:MAX_LISTED])
    more = f" and {len(sizes) - MAX_LISTED} other sizes" if len(sizes) > MAX_LISTED else ""
    return UserError(
        f"the images in {folder.root} are not all {_format_size(size) if size else 'the same size'} (height x width): "
        f"{listed}{more}; choose --size HxW, with --fit crop, pad or stretch"
    )


def _format_size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _printable(name: str) -> str:
    """Return a file's name as text that can be encoded; escape bytes that are not valid text."""
    return name.encode(errors="backslashreplace").decode()


# reading a file


def _open(file: Path) -> Image.Image:
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise OSError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from None


def _load_image(file: Path) -> np.ndarray:
    """Read an image as (H, W, C) uint8: C is 4 with transparency, 1 for 16-bit grey, and otherwise 3."""
    with _open(file) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
            grey16 = np.asarray(image).astype(np.int32)
            grey = (grey16 >> 8).astype(np.uint8)[..., None]
            opaque = grey16 != image.info.get("transparency", -1)
            return grey if opaque.all() else np.dstack([grey, grey, grey, opaque.astype(np.uint8) * 255])
        return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _load_array(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read images (N, H, W, C) uint8 and labels: (N,) integers, (N, L) numbers, or None if there are none.

    ValueError if the file is damaged; UserError if its arrays do not have this form.
    """
    with file.open("rb") as handle:
        try:
            loaded = np.load(handle, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                images, labels = loaded, None
            else:
                names = [name for name in loaded.files if name != "labels"]
                if len(names) != 1:
                    found = ", ".join(names) or "none"
                    raise UserError(f"{file} must contain one array of images besides `labels`; found: {found}")
                images = loaded[names[0]]
                labels = loaded["labels"] if "labels" in loaded.files else None
        except (ValueError, EOFError):
            raise ValueError("truncated, or not an array of numbers") from None

    shape = images.shape
    if images.dtype != np.uint8:
        raise UserError(
            f"{file} contains {images.dtype}; it must contain uint8 in 0…255. Convert from [-1, 1] with "
            "((x + 1) * 127.5).round().astype('uint8'), from [0, 1] with (x * 255).round().astype('uint8')"
        )
    if images.ndim == 2 or (images.ndim == 3 and shape[2] in CHANNELS):
        images = images[None]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in CHANNELS or not images.size:
        raise UserError(
            f"{file} has shape {shape}; it must be (N, H, W), (N, H, W, C), (H, W) or (H, W, C), with C = 1, 3 or 4"
        )
    if labels is not None:
        classes = labels.ndim == 1 and labels.dtype.kind in "iu" and labels.min(initial=0) >= 0
        vectors = labels.ndim == 2 and labels.dtype.kind in "biuf" and np.isfinite(labels).all()
        if not (classes or vectors) or len(labels) != len(images):
            raise UserError(
                f"the labels in {file} are {labels.shape} {labels.dtype}; they must be class numbers, ({len(images)},) "
                f"integers from 0, or vectors, ({len(images)}, L) finite numbers"
            )
    return images, labels


# resizing


def _fit(pixels: np.ndarray, size: tuple[int, int], fit: Fit, mode: Mode, background: str) -> np.ndarray:
    """Turn pixels (h, w, c) into an image (H, W, C) of this size; the other parameters are those of `load`."""
    image = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])
    if image.mode == "RGBA" and mode != "RGBA":
        canvas = Image.new("RGBA", image.size, ImageColor.getrgb(background)[:3])
        image = Image.alpha_composite(canvas, image)
    # for auto, work in RGB because the background may be coloured, then check whether the result is grey
    image = _resize(image.convert("RGB" if mode == "auto" else mode), size, fit, background)
    result = np.asarray(image).reshape(*size, -1)
    is_grey = mode == "auto" and (result == result[..., :1]).all()
    return result[..., :1] if is_grey else result


def _resize(image: Image.Image, size: tuple[int, int], fit: Fit, background: str) -> Image.Image:
    (w, h), (H, W) = image.size, size
    if (h, w) == size or fit == "stretch":
        return _scale(image, W, H)
    if fit == "crop":
        # the largest centred part that has the frame's aspect ratio
        part_w, part_h = min(w, max(1, round(h * W / H))), min(h, max(1, round(w * H / W)))
        left, top = (w - part_w) // 2, (h - part_h) // 2
        return _scale(image.crop((left, top, left + part_w, top + part_h)), W, H)
    inner_w, inner_h = min(W, max(1, round(w * H / h))), min(H, max(1, round(h * W / w)))
    frame = Image.new(image.mode, (W, H), ImageColor.getcolor(background, image.mode))
    frame.paste(_scale(image, inner_w, inner_h), ((W - inner_w) // 2, (H - inner_h) // 2))
    return frame


def _scale(image: Image.Image, W: int, H: int) -> Image.Image:
    """Scale an image to W x H.

    Integer factors keep pixel art sharp: each pixel becomes a block of equal pixels, or each block becomes its mean.
    """
    w, h = image.size
    if W % w == 0 and H % h == 0:
        method = Image.Resampling.NEAREST
    elif w % W == 0 and h % H == 0:
        method = Image.Resampling.BOX
    elif W <= w and H <= h:
        method = Image.Resampling.LANCZOS
    else:
        method = Image.Resampling.BICUBIC
    return image.resize((W, H), method)


# labels


def _labels(folder: Folder, counts: Counter[Path]) -> tuple[np.ndarray, list[str]]:
    """Return labels (N, L) and their names. counts: the number of images from each file, in order."""
    by_file = {file: folder.arrays[file][1] for file in counts if file in folder.arrays}
    arrays = [labels for labels in by_file.values() if labels is not None]
    if not arrays:
        return _subfolder_labels(folder, counts)
    for file in counts:
        if by_file.get(file) is None:
            raise UserError(
                f"{file} has no `labels`, but another array in {folder.root} does; give labels to every file or to none"
            )
    if len({labels.shape[1:] for labels in arrays}) > 1:
        shapes = ", ".join(str(labels.shape) for labels in arrays)
        raise UserError(f"the `labels` of the arrays in {folder.root} have different shapes: {shapes}")
    labels = np.concatenate(arrays)
    if labels.ndim == 1:
        count = int(labels.max()) + 1
        _check_label_count(folder, count)
        labels = one_hot(labels.astype(np.int64), count)
    return labels, [str(i) for i in range(labels.shape[1])]


def _subfolder_labels(folder: Folder, counts: Counter[Path]) -> tuple[np.ndarray, list[str]]:
    """Label each image with its subfolder; the vectors of images at the top level are all zeros."""
    paths = [file.relative_to(folder.root).parts for file in counts]
    names = sorted({path[0] for path in paths if len(path) > 1})
    _check_label_count(folder, len(names))
    class_of = {name: i for i, name in enumerate(names)}
    classes = [class_of[path[0]] if len(path) > 1 else len(names) for path in paths]
    # one more class for images without a label, whose column is then dropped
    labels = one_hot(np.repeat(classes, list(counts.values())), len(names) + 1)[:, :-1]
    return labels, [_printable(name) for name in names]


def _check_label_count(folder: Folder, count: int) -> None:
    if count > MAX_LABELS:
        raise UserError(f"{folder.root} has {count} labels; at most {MAX_LABELS} are supported")


# progress


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each file; after PROGRESS_DELAY it shows a bar and the time left on stderr."""
    columns = TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True)
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task("", total=total)
    start = time.monotonic()

    def advance() -> None:
        progress.advance(task)
        if time.monotonic() - start > PROGRESS_DELAY:
            progress.start()

    try:
        yield advance
    finally:
        if progress.live.is_started:
            progress.stop()
