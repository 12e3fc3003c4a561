"""The search for shapes finds what images were drawn from, almost always the best union, and nothing in noise."""

import itertools
import math
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shapedreamer.common.errors import UserError
from shapedreamer.data.drawn import patterns, shapes
from shapedreamer.data.spec import Dataset, DataSpec
from shapedreamer.evaluation import validity
from shapedreamer.evaluation.intervals import normal, wilson
from shapedreamer.evaluation.validity import (
    PIXEL_TOLERANCE,
    VALID_IOU,
    Primitives,
    crispness,
    explain,
    is_intact,
    judge,
    primitives_of,
)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def require_primitives(spec: DataSpec) -> Primitives:
    if spec == patterns.SPEC:
        pytest.importorskip("cv2", reason="needs the extra 'data'")
    found = primitives_of(spec)
    assert found is not None
    return found


def data_of(spec: DataSpec) -> Dataset:
    require_primitives(spec)
    return shapes.Shapes(1000, seed=3) if spec == shapes.SPEC else patterns.Patterns(1000, seed=3)


def first(spec: DataSpec, count: int) -> tuple[Tensor, Tensor]:
    return data_of(spec).batch(torch.arange(count))


def images(masks: Tensor) -> Tensor:
    """Masks (N, H, W) bool as images (N, 1, H, W) of −1 and 1."""
    return masks[:, None].float() * 2 - 1


def random_positions(primitives: Primitives, shape: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """For each shape (N,), a random row and column of its top left corner; every third shape is in an image corner."""
    _, H, W = primitives.masks.shape
    masks = primitives.masks[shape]
    share = torch.rand(2, len(shape), generator=random(seed))
    share[:, ::3] = share[:, ::3].round()
    rows, columns = H - masks.any(2).sum(1), W - masks.any(1).sum(1)
    return (share[0] * rows).round().long(), (share[1] * columns).round().long()


def draw_union(primitives: Primitives, parts: Tensor) -> Tensor:
    """The union (H, W) that parts (3, 3) describe, drawn by moving each mask with `roll`."""
    union = torch.zeros_like(primitives.masks[0])
    for number, row, column in parts.tolist():
        if number >= 0:
            union |= primitives.masks[number].roll((row, column), (0, 1))
    return union


def with_wrong_pixels(masks: Tensor, count: int, seed: int = 0) -> Tensor:
    """Masks (N, H, W) with `count` pixels flipped next to an edge of each mask."""
    white = masks[:, None].float()
    edge = F.max_pool2d(white, 3, 1, 1) + F.max_pool2d(1 - white, 3, 1, 1) == 2
    score = torch.rand(white.shape, generator=random(seed)) * edge
    return masks ^ (score >= score.flatten(1).topk(count).values[:, -1].view(-1, 1, 1, 1))[:, 0]


BOTH = pytest.mark.parametrize("spec", [shapes.SPEC, patterns.SPEC], ids=lambda spec: spec.name)

# primitives


def test_primitives_of_shapes_are_complete_and_distinct() -> None:
    primitives = require_primitives(shapes.SPEC)
    count = primitives.kind.bincount().tolist()
    triangles = set()  # identified by the widths of their rows; rows without a pixel centre are left out
    for base, height in itertools.product(range(6, 15), repeat=2):
        rows = [[abs(2 * x + 1 - base) * 2 * height <= base * (2 * y + 1) for x in range(base)] for y in range(height)]
        triangles.add(tuple(sum(row) for row in rows if any(row)))
    assert count[:3] == [10, 13 * 13, len(triangles)]
    assert 0.95 * 16 * 32 < count[3] <= 16 * 32  # short lines with neighbouring directions may cover the same pixels
    assert len(primitives.masks.flatten(1).unique(dim=0)) == len(primitives.masks) == sum(count)
    assert primitives.num_kinds == 4
    for kind, (low, high) in ((0, (6, 24)), (1, (4, 16))):
        masks = primitives.masks[primitives.kind == kind]
        assert (int(masks.any(1).sum(1).min()), int(masks.any(1).sum(1).max())) == (low, high)
    rectangles = {(int(mask.any(1).sum()), int(mask.any(0).sum())) for mask in primitives.masks[primitives.kind == 1]}
    assert rectangles == set(itertools.product(range(4, 17), range(4, 17)))


def test_primitives_of_patterns_are_complete() -> None:
    primitives = require_primitives(patterns.SPEC)
    assert primitives.kind.tolist() == [0] * 10 + [1] * 19
    across = primitives.masks.any(1).sum(1).tolist()
    assert across == [2 * r + 1 for r in range(5, 15)] + list(range(8, 27))
    assert [int(mask.sum()) for mask in primitives.masks[10:]] == [side**2 for side in range(8, 27)]


@BOTH
def test_masks_are_in_the_top_left_corner(spec: DataSpec) -> None:
    masks = require_primitives(spec).masks
    assert masks[:, 0].any(1).all()
    assert masks[:, :, 0].any(1).all()


def test_equal_masks_count_once_for_the_first_kind() -> None:
    square, bar = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    square[0, 2:4, 1:3] = True
    bar[0, 1:2, 0:3] = True
    primitives = Primitives([square, torch.cat([bar, square.roll(2, 1)])])
    assert primitives.kind.tolist() == [0, 1]
    assert primitives.num_kinds == 2


@BOTH
def test_coverage_and_spill_count_pixels(spec: DataSpec) -> None:
    primitives = require_primitives(spec)
    P, H, W = primitives.masks.shape
    white = torch.rand(H, W, generator=random()) > 0.4
    coverage, spill = primitives.coverage(white), primitives.spill(white)
    shape = torch.randperm(P, generator=random())[:20]
    rows, columns = random_positions(primitives, shape)
    drawn = primitives.render(shape, rows * W + columns)
    for mask, number, row, column in zip(drawn, shape, rows, columns, strict=True):
        assert torch.equal(mask, primitives.masks[number].roll((int(row), int(column)), (0, 1)))
        assert mask.sum() == primitives.masks[number].sum()
        assert coverage[number, row, column] == (mask & white).sum()
        assert spill[number, row, column] == (mask & ~white).sum()
        below, beside = H - int(mask.any(1).sum()), W - int(mask.any(0).sum())
        assert spill[number].isfinite().nonzero().amax(0).tolist() == [below, beside]
        assert spill[number].isfinite().sum() == (below + 1) * (beside + 1)


def test_data_sets_that_do_not_draw_shapes_have_no_primitives() -> None:
    assert primitives_of(DataSpec("mnist", 1, 28, 28, tuple("0123456789"))) is None
    assert primitives_of(DataSpec("shapes", 3, 32, 32, ())) is None  # an image folder of this name
    with pytest.raises(ValueError, match="cannot search for shapes: the data set mnist does not draw any"):
        judge(torch.zeros(1, 1, 28, 28), DataSpec("mnist", 1, 28, 28, ()))


def test_the_error_without_opencv_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    primitives_of.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"needs cv2: pip install 'shapedreamer\[data\]'"):
        primitives_of(patterns.SPEC)


# the search


@BOTH
def test_each_single_shape_is_identified(spec: DataSpec) -> None:
    primitives = require_primitives(spec)
    _, _, W = primitives.masks.shape
    shape = torch.arange(0, len(primitives.masks), 9 if spec == shapes.SPEC else 1)
    rows, columns = random_positions(primitives, shape)
    iou, wrong, counts, parts, _ = explain(images(primitives.render(shape, rows * W + columns)), primitives)
    assert (iou == 1).all()
    assert (wrong == 0).all()
    assert torch.equal(counts, F.one_hot(primitives.kind[shape], primitives.num_kinds).float())
    assert torch.equal(parts[:, 0], torch.stack([shape, rows, columns], dim=1))
    assert (parts[:, 1:] == -1).all()
    assert set(primitives.kind[shape].tolist()) == set(range(primitives.num_kinds))


@BOTH
def test_disjoint_shapes_are_counted(spec: DataSpec) -> None:
    primitives = require_primitives(spec)
    H = spec.height
    kinds = list(itertools.combinations_with_replacement(range(primitives.num_kinds), 2))
    smallest = [int((primitives.kind == kind).nonzero()[0]) for kind in range(primitives.num_kinds)]
    corners = [(0, 0), (H // 2 + 1, H // 2), (0, H // 2 + 2)]
    drawn, parts = [], []
    for a, b in kinds:
        union = [(smallest[kind], *corner) for kind, corner in zip((a, b, a)[: 2 + (a == b)], corners, strict=False)]
        drawn.append(torch.stack([primitives.masks[n].roll((y, x), (0, 1)) for n, y, x in union]))
        assert drawn[-1].sum(0).max() == 1  # no overlap
        parts.append(union)
    iou, _, counts, found, _ = explain(images(torch.stack([masks.any(0) for masks in drawn])), primitives)
    assert (iou == 1).all()
    assert counts.sum(1).tolist() == [len(union) for union in parts]
    for expected, union in zip(parts, found.tolist(), strict=True):
        assert {tuple(part) for part in union if part[0] >= 0} == set(expected)


@BOTH
def test_real_images_are_explained_by_their_shapes(spec: DataSpec) -> None:
    real, labels = first(spec, 30)
    found = explain(real, require_primitives(spec))
    assert (found.iou >= VALID_IOU).float().mean() >= 0.95
    assert (found.wrong <= PIXEL_TOLERANCE).float().mean() >= 0.95
    assert found.intact.float().mean() >= 0.99
    single = labels.sum(1) == 1
    assert single.sum() > 5
    assert torch.equal(found.counts[single], labels[single])
    assert (found.counts == labels).all(1).float().mean() >= 0.8  # some shapes hide others
    assert (found.counts.sum(1) <= labels.sum(1)).all()


@BOTH
def test_iou_wrong_and_counts_describe_the_returned_union(spec: DataSpec) -> None:
    primitives = require_primitives(spec)
    white = with_wrong_pixels(first(spec, 8)[0][:, 0] > 0, 12)
    found = explain(images(white), primitives)
    assert (found.wrong > 0).all()
    for mask, iou, wrong, counts, parts in zip(white, *found[:4], strict=True):
        union = draw_union(primitives, parts)
        assert iou.item() == pytest.approx(((union & mask).sum() / (union | mask).sum()).item())
        assert wrong == (union ^ mask).sum()
        assert torch.equal(primitives.kind[parts[parts[:, 0] >= 0, 0]].bincount(minlength=len(counts)).float(), counts)


@BOTH
def test_a_few_wrong_pixels_do_not_change_the_counts(spec: DataSpec) -> None:
    real, labels = first(spec, 60)
    large = (labels.sum(1) == 1) & ((real > 0).sum((1, 2, 3)) >= 50)
    assert large.sum() > 8
    found = explain(images(with_wrong_pixels(real[large, 0] > 0, PIXEL_TOLERANCE)), require_primitives(spec))
    assert (found.wrong <= PIXEL_TOLERANCE).all()
    assert torch.equal(found.counts, labels[large])


# which union is chosen


def test_the_beam_search_is_nearly_as_good_as_trying_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validity, "MAX_SHAPES", 2)
    monkeypatch.setattr(validity, "PIXEL_TOLERANCE", 0)
    size = 12
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    rectangles = [(row < h) & (column < w) for h, w in itertools.product(range(3, 7), repeat=2)]
    circles = [(row - r) ** 2 + (column - r) ** 2 <= r**2 for r in (2, 3, 4)]
    primitives = Primitives([torch.stack(circles), torch.stack(rectangles)])
    spill = primitives.spill(torch.zeros(size, size, dtype=torch.bool))
    shape, position = spill.flatten(1).isfinite().nonzero().unbind(1)
    placed = primitives.render(shape, position)
    white = with_wrong_pixels(placed[torch.randint(len(placed), (30, 2), generator=random())].any(1), 5)
    found = explain(images(white), primitives).iou

    flat = placed.flatten(1).double()
    covered = flat.sum(1)[:, None] + flat.sum(1) - flat @ flat.T
    best = []
    for pixels in white.flatten(1):
        hit = flat @ pixels.double()
        hit_by_both = hit[:, None] + hit - flat @ (flat * pixels).T
        iou = hit_by_both / (pixels.sum() + covered - hit_by_both)  # the diagonal has the single shapes
        best.append(iou.max())
    gap = torch.stack(best) - found
    assert gap.min() > -1e-6
    assert (gap < 1e-6).float().mean() >= 0.9
    assert gap.mean() < 0.002


def test_a_beam_is_needed_if_the_best_single_shape_is_not_part_of_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hard = data_of(shapes.SPEC).batch(torch.tensor([68, 107]))[0]
    assert (explain(hard, require_primitives(shapes.SPEC)).iou == 1).all()
    monkeypatch.setattr(validity, "BEAM_WIDTH", 1)
    missed = explain(hard, require_primitives(shapes.SPEC))
    assert (missed.iou < 0.95).all()
    assert missed.intact[0]  # the refinement finds what the search has missed
    assert missed.wrong[0] > PIXEL_TOLERANCE


def filled_rectangle(top: int, left: int, height: int, width: int) -> Tensor:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.mark.parametrize(("extra", "number"), [(PIXEL_TOLERANCE, 1), (PIXEL_TOLERANCE + 1, 2)])
def test_another_shape_must_correct_more_than_a_few_pixels(extra: int, number: int) -> None:
    picture = (
        filled_rectangle(8, 8, 14, 14)
        | filled_rectangle(22, 10, 2, extra // 2)
        | filled_rectangle(22, 10, 1, extra - extra // 2)
    )
    found = explain(images(picture[None]), require_primitives(shapes.SPEC))
    assert picture.sum() == 14 * 14 + extra
    assert found.counts.sum() == number
    assert found.wrong == (extra if number == 1 else 0)


def test_another_shape_is_used_if_the_image_is_valid_only_with_it() -> None:
    picture = torch.zeros(32, 32, dtype=torch.bool)
    picture[9:13, 9:14] = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 0]]).bool()
    found = explain(images(picture[None]), require_primitives(shapes.SPEC))
    assert found.iou == 1
    assert found.counts.tolist() == [[0, 0, 0, 2]]
    line = picture & filled_rectangle(10, 9, 2, 5)  # all but two of the pixels, but IoU 10/12
    assert explain(images(line[None]), require_primitives(shapes.SPEC)).counts.tolist() == [[0, 0, 0, 1]]


def test_only_the_sign_of_a_pixel_matters() -> None:
    real = first(shapes.SPEC, 3)[0]
    grey = real * torch.rand(real.shape, generator=random()).clamp(min=0.01)
    primitives = require_primitives(shapes.SPEC)
    for a, b in zip(explain(real, primitives), explain(grey, primitives), strict=True):
        assert torch.equal(a, b)


def test_images_are_explained_independently_and_progress_is_reported() -> None:
    real = first(shapes.SPEC, 4)[0]
    progress: list[int] = []
    together = explain(real, require_primitives(shapes.SPEC), progress.append)
    assert progress == [1, 2, 3, 4]
    for i in range(4):
        alone = explain(real[i : i + 1], require_primitives(shapes.SPEC))
        for single, batch in zip(alone, together, strict=True):
            assert torch.equal(single[0], batch[i])


def test_black_images_have_no_shapes_and_specks_and_full_images_are_not_valid() -> None:
    smallest = int(require_primitives(shapes.SPEC).masks.sum((1, 2)).min())
    black = torch.zeros(32, 32, dtype=torch.bool)
    speck = black.clone()
    speck.view(-1)[100 : 100 + smallest - 1] = True
    found = explain(images(torch.stack([black, speck])), require_primitives(shapes.SPEC))
    assert found.iou[0] == 0
    assert found.counts[0].tolist() == [0, 0, 0, 0]
    assert (found.parts[0] == -1).all()
    assert found.wrong[0] == smallest  # every image has at least one shape
    assert not found.intact.any()
    assert 0 < found.iou[1] < VALID_IOU
    full = explain(torch.ones(1, 1, 32, 32), require_primitives(shapes.SPEC))  # more than three shapes can cover
    assert 0 < full.iou.item() < VALID_IOU
    assert not full.intact


def test_images_of_another_size_are_rejected() -> None:
    for shape in ((2, 1, 64, 64), (2, 3, 32, 32)):
        with pytest.raises(ValueError, match=r"images must be \(N, 1, 32, 32\), not "):
            explain(torch.zeros(shape), require_primitives(shapes.SPEC))


# images that are not made of shapes


def blobs(size: int, count: int, width: int) -> Tensor:
    """Smoothed noise with a fifth of the pixels white."""
    noise = torch.randn(count, 1, size + 2 * (width - 1), size + 2 * (width - 1), generator=random())
    smooth = F.avg_pool2d(F.avg_pool2d(noise, width, 1), width, 1)
    return images((smooth > smooth.flatten(1).quantile(0.8, dim=1).view(-1, 1, 1, 1))[:, 0])


@BOTH
def test_noise_and_blobs_are_not_valid(spec: DataSpec) -> None:
    noise = torch.randn(2, 1, spec.height, spec.width, generator=random())
    assert (explain(torch.cat([noise, blobs(spec.height, 5, 5)]), require_primitives(spec)).iou < 0.8).all()


Y, X = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing="ij")
R, ANGLE = torch.hypot(X, Y), torch.atan2(Y, X)
STROKES = {
    "ring": (R - 9).abs() < 1,
    "bent line": ((R - 11).abs() < 1) & (Y < 0),
    "wave": (Y - 6 * (X / 3.5).sin()).abs() < 1.3,
    "frame": (torch.maximum(X.abs(), Y.abs()) - 8).abs() < 1,
    "star": 9 * (1 + 0.4 * (5 * ANGLE).cos()) > R,
}


@pytest.mark.parametrize("stroke", STROKES)
def test_other_drawings_are_not_valid(stroke: str) -> None:
    assert explain(images(STROKES[stroke][None]), require_primitives(shapes.SPEC)).iou.item() < 0.9


def rounded(real: Tensor, width: int = 7, threshold: float = 0.4) -> Tensor:
    """Images with rounded corners, in which neighbouring shapes merge."""
    return images((F.avg_pool2d((real > 0).float(), width, 1, width // 2) > threshold)[:, 0])


@BOTH
def test_rounded_shapes_are_neither_exact_nor_match_their_label(spec: DataSpec) -> None:
    real, labels = first(spec, 16)
    sharp, soft = (judge(batch, spec, labels) for batch in (real, rounded(real)))
    assert sharp.exact >= 0.9
    assert soft.exact <= 0.25
    assert soft.valid < sharp.valid
    assert sharp.asked is not None
    assert soft.asked is not None
    assert soft.asked < 0.4 < 0.8 < sharp.asked


def test_two_merged_circles_do_not_count_as_two_circles() -> None:
    merged = torch.exp(-((X - 6) ** 2 + Y**2) / 40) + torch.exp(-((X + 6) ** 2 + Y**2) / 40) > 0.5
    report = judge(images(merged[None]), shapes.SPEC, torch.tensor([[2.0, 0, 0, 0]]))
    assert report.exact == 0
    assert report.asked == 0


# intact images


def outline_of(mask: Tensor) -> Tensor:
    """The white pixels of a mask (H, W) next to a black one. The mask may not touch the border."""
    beside = torch.stack([mask.roll(shift, axis) for shift in (-1, 1) for axis in (0, 1)])
    return mask & ~beside.all(0)


def centred(mask: Tensor) -> Tensor:
    H, W = mask.shape
    return mask.roll(((H - int(mask.any(1).sum())) // 2, (W - int(mask.any(0).sum())) // 2), (0, 1))


def eroded(mask: Tensor) -> Tensor:
    """Without one ring of pixels."""
    return mask & ~outline_of(mask)


def frayed(mask: Tensor) -> Tensor:
    """Without half of the outline, in random places."""
    return mask & ~(outline_of(mask) & (torch.rand(mask.shape, generator=random(1)) < 0.5))


def bent(mask: Tensor) -> Tensor:
    """Bent along its longer side by 2 pixels: the middle is moved by 2, the ends stay."""
    rows = mask if mask.any(1).sum() >= mask.any(0).sum() else mask.T
    used = rows.any(1).nonzero()[:, 0]
    place = (used - used[0] + 0.5) / len(used)
    curved = torch.zeros_like(rows)
    for row, shift in zip(used, (2 * (1 - (2 * place - 1) ** 2)).round(), strict=True):
        curved[row] = rows[row].roll(int(shift))
    return curved if rows is mask else curved.T


def dented(mask: Tensor) -> Tensor:
    """Without a bite of radius 2.5 at the place of the outline that is closest to its centre."""
    edge = outline_of(mask).nonzero()
    y, x = edge[(edge - edge.float().mean(0)).square().sum(1).argmin()]
    row, column = torch.meshgrid(*map(torch.arange, mask.shape), indexing="ij")
    return mask & ((row - y) ** 2 + (column - x) ** 2 > 2.5**2)


def mask_of(kind: str, height: int, width: int) -> Tensor:
    """The first shape of the data set `shapes` with this kind and size, in the middle of the image."""
    primitives = require_primitives(shapes.SPEC)
    masks = primitives.masks[primitives.kind == shapes.KINDS.index(kind)]
    sizes = zip(masks.any(2).sum(1).tolist(), masks.any(1).sum(1).tolist(), strict=True)
    return centred(masks[list(sizes).index((height, width))])


def without(mask: Tensor, count: int) -> Tensor:
    """Without the last `count` white pixels."""
    smaller = mask.clone()
    smaller[tuple(mask.nonzero()[len(mask.nonzero()) - count :].T)] = False
    return smaller


@BOTH
def test_every_shape_is_intact_and_none_with_a_flaw(spec: DataSpec) -> None:
    primitives = require_primitives(spec)
    for mask in map(centred, primitives.masks[:: 4 if spec == shapes.SPEC else 1]):
        assert is_intact(mask, mask[None])
        for flaw in (eroded, frayed, bent, dented, torch.zeros_like):
            assert not is_intact(flaw(mask), mask[None]), flaw


@pytest.mark.parametrize(
    ("kind", "height", "width", "tolerated"),
    [("circle", 6, 6, 1), ("circle", 24, 24, 6), ("rectangle", 16, 16, 6), ("triangle", 13, 13, 3), ("line", 2, 5, 1)],
)
def test_each_ten_pixels_of_the_outline_allow_one_wrong_pixel(
    kind: str, height: int, width: int, tolerated: int
) -> None:
    mask = mask_of(kind, height, width)
    assert tolerated == outline_of(mask).sum() // 10
    around = F.max_pool2d(mask[None].float(), 3, 1, 1)[0].bool()
    for wrong in (outline_of(mask), around & ~mask):  # missing pixels; additional ones
        for count in (tolerated, tolerated + 1):
            flipped = torch.zeros_like(mask)
            flipped[tuple(wrong.nonzero()[:count].T)] = True
            assert is_intact(mask ^ flipped, mask[None]) == (count == tolerated)


def test_a_short_line_is_not_judged_more_strictly_than_a_disc() -> None:
    line, disc = mask_of("line", 2, 5), mask_of("circle", 20, 20)
    found = explain(images(torch.stack([without(line, 1), without(disc, 24)])), require_primitives(shapes.SPEC))
    assert (int(line.sum()), int(disc.sum())) == (10, 316)
    assert (found.iou >= VALID_IOU).tolist() == [False, True]
    assert found.intact.tolist() == [True, False]


def test_a_wrong_line_cannot_hide_beside_a_disc() -> None:
    line, disc = mask_of("line", 2, 5).roll(-13, 0), mask_of("circle", 20, 20)
    union = line | disc
    assert is_intact(without(union, 4), torch.stack([line, disc]))  # the last pixels are those of the disc
    assert is_intact(union & ~line | without(line, 1), torch.stack([line, disc]))
    assert not is_intact(union & ~line | without(line, 2), torch.stack([line, disc]))


def test_a_wrong_pixel_counts_against_each_of_the_nearest_shapes() -> None:
    left, right = filled_rectangle(8, 2, 10, 10), filled_rectangle(8, 15, 10, 4)
    masks = torch.stack([left, right])
    assert (int(outline_of(left).sum()), int(outline_of(right).sum())) == (36, 24)
    near_left, between = filled_rectangle(8, 12, 3, 1), filled_rectangle(8, 13, 3, 1)
    assert is_intact(left | right | near_left, masks)
    assert not is_intact(left | right | between, masks)  # 3 pixels are too many for the right one


def test_a_shape_that_is_nearly_hidden_has_a_short_outline() -> None:
    large, line = filled_rectangle(8, 8, 14, 14), filled_rectangle(12, 14, 2, 12)
    masks = torch.stack([large, line])  # the line shows 2 x 4 pixels, which are all on the outline
    assert is_intact(large | line, masks)
    assert is_intact(large | line | filled_rectangle(22, 8, 1, 4), masks)
    assert not is_intact(large | line | filled_rectangle(12, 26, 1, 1), masks)


@pytest.mark.parametrize(
    ("kind", "height", "width"), [("circle", 24, 24), ("rectangle", 12, 10), ("triangle", 13, 13), ("line", 10, 15)]
)
def test_no_other_shapes_make_a_flawed_image_intact(kind: str, height: int, width: int) -> None:
    mask = mask_of(kind, height, width)
    flawed = images(torch.stack([frayed(mask), bent(mask), dented(mask)]))
    found = explain(flawed, require_primitives(shapes.SPEC))
    assert not found.intact.any()
    assert (found.iou >= VALID_IOU).any() == (kind != "line")  # these flaws are small compared with the area


@pytest.mark.slow
@BOTH
def test_a_hundred_real_images_are_intact(spec: DataSpec) -> None:
    found = explain(data_of(spec).batch(torch.arange(500, 600))[0], require_primitives(spec))
    assert found.intact.float().mean() >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("kind", shapes.KINDS)
def test_few_flawed_images_are_intact_and_none_with_the_shape_of_its_label(kind: str) -> None:
    primitives = require_primitives(shapes.SPEC)
    masks = primitives.masks[primitives.kind == shapes.KINDS.index(kind)]
    large = masks[masks.sum((1, 2)).argsort()[len(masks) // 2 :]]
    chosen = [centred(mask) for mask in large[:: max(1, len(large) // 4)][:4]]
    flawed = images(torch.stack([flaw(mask) for mask in chosen for flaw in (frayed, bent, dented)]))
    labels = F.one_hot(torch.full((len(flawed),), shapes.KINDS.index(kind)), len(shapes.KINDS)).float()
    found = explain(flawed, primitives)
    assert found.intact.float().mean() <= 0.35
    assert not (found.intact & (found.counts == labels).all(1)).any()


# the report


def test_crispness_of_known_pixels() -> None:
    pixels = torch.tensor([-1.0, -0.8, -0.79, 0.0, 0.79, 0.8, 0.9, 1.0])
    assert crispness(pixels.view(1, 1, 2, 4)) == 5 / 8
    assert crispness(first(shapes.SPEC, 4)[0]) == 1
    uniform = torch.linspace(-1, 1, 10_001).view(1, 1, 1, -1)
    assert crispness(uniform) == pytest.approx(0.2, abs=1e-3)


def test_a_report_of_known_images() -> None:
    primitives = require_primitives(shapes.SPEC)
    circle, line = (primitives.masks[primitives.kind == kind][0] for kind in (0, 3))
    masks = torch.stack([circle, R < 0, circle | line.roll((20, 20), (0, 1)), STROKES["ring"]])
    labels = torch.tensor([[0.0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]])
    progress: list[int] = []
    batch = images(masks)
    batch[0] *= 0.5  # no pixel of this image is crisp
    report = judge(batch, shapes.SPEC, labels, progress.append)
    assert progress == [1, 2, 3, 4]
    assert report.valid == report.exact == 0.5
    assert report.crisp == 0.75
    assert report.white == masks.double().mean().item()
    assert report.shapes == 1.5
    assert report.kinds == {
        "circle": pytest.approx(2 / 3),
        "rectangle": 0,
        "triangle": 0,
        "line": pytest.approx(1 / 3),
    }
    assert report.asked == 0.5
    assert report.intact == 0.5
    assert report.by_kind is not None
    found = {name: (kind.images, kind.valid, kind.intact) for name, kind in report.by_kind.items()}
    assert found == {
        "circle": (1, 1, 1),
        "rectangle": (0, None, None),
        "triangle": (0, None, None),
        "line": (3, 2 / 3, 2 / 3),
    }
    white = masks.double().mean((1, 2)).numpy()
    assert report.intervals == {
        "valid": wilson(0.5, 4),
        "exact": wilson(0.5, 4),
        "intact": wilson(0.5, 4),
        "asked": wilson(0.5, 2),
        "crisp": pytest.approx(normal(0.75, math.sqrt(3) / 4, 4)),
        "white": pytest.approx(normal(white.mean(), white.std(), 4)),
        "shapes": normal(1.5, 0.5, 2),
    }
    assert report.by_kind["line"].intervals == {
        "valid": wilson(2 / 3, 3),
        "intact": wilson(2 / 3, 3),
        "share": pytest.approx(wilson(1 / 3, 3)),
    }
    assert report.by_kind["rectangle"].intervals == {"share": wilson(0, 3)}


def test_without_labels_the_search_says_which_kinds_an_image_has() -> None:
    circle, line = mask_of("circle", 12, 12).roll(-8, 0), mask_of("line", 2, 18).roll(11, 0)
    blank = line & ~line
    report = judge(images(torch.stack([circle, circle | line, frayed(line), blank])), shapes.SPEC)
    assert report.asked is None
    assert report.by_kind is not None
    found = {name: (kind.images, kind.valid, kind.intact) for name, kind in report.by_kind.items() if kind.images}
    assert found == {"circle": (2, 1, 1), "line": (2, 0.5, 0.5)}  # the blank image has no kind


def test_a_blank_image_is_wrong_for_each_kind_of_its_label() -> None:
    report = judge(-torch.ones(2, 1, 32, 32), shapes.SPEC, torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 1]]))
    assert (report.valid, report.exact, report.intact, report.asked) == (0, 0, 0, None)
    assert report.by_kind is not None
    assert [(kind.images, kind.valid, kind.intact) for kind in report.by_kind.values()] == [
        (1, 0, 0),
        (0, None, None),
        (0, None, None),
        (2, 0, 0),
    ]


def test_a_report_without_valid_images_has_no_counts() -> None:
    report = judge(images(STROKES["ring"][None]), shapes.SPEC, torch.ones(1, 4))
    assert (report.valid, report.shapes, report.kinds, report.asked) == (0, None, None, None)


def test_a_valid_image_need_not_be_exact() -> None:
    white = with_wrong_pixels(R[None] < 11, 14)
    report = judge(images(white), shapes.SPEC)
    assert report.valid == 1
    assert report.exact == 0
