"""The search for shapes: it finds what images were drawn from, all but always the best union, and nothing in junk."""

import itertools
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shapedreamer.common.errors import UserError
from shapedreamer.data.drawn import patterns, shapes
from shapedreamer.data.spec import Dataset, DataSpec
from shapedreamer.evaluation import validity
from shapedreamer.evaluation.validity import SAME, VALID, Primitives, crispness, explained, judge, primitives_of


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of(spec: DataSpec) -> Primitives:
    if spec == patterns.SPEC:
        pytest.importorskip("cv2", reason="needs the extra 'data'")
    found = primitives_of(spec)
    assert found is not None
    return found


def data_of(spec: DataSpec) -> Dataset:
    of(spec)
    return shapes.Shapes(1000, seed=3) if spec == shapes.SPEC else patterns.Patterns(1000, seed=3)


def first(spec: DataSpec, count: int) -> tuple[Tensor, Tensor]:
    return data_of(spec).batch(torch.arange(count))


def images(masks: Tensor) -> Tensor:
    """Masks (N, H, W) bool as images."""
    return masks[:, None].float() * 2 - 1


def some_places(primitives: Primitives, which: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """For each of these shapes (N,) a random row and column of its top left, the frame's corners among them."""
    _, H, W = primitives.masks.shape
    masks = primitives.masks[which]
    share = torch.rand(2, len(which), generator=random(seed))
    share[:, ::3] = share[:, ::3].round()
    rows, columns = H - masks.any(2).sum(1), W - masks.any(1).sum(1)
    return (share[0] * rows).round().long(), (share[1] * columns).round().long()


def redrawn(primitives: Primitives, parts: Tensor) -> Tensor:
    """The union (H, W) that parts (3, 3) describe, by moving each mask with `roll`."""
    union = torch.zeros_like(primitives.masks[0])
    for number, row, column in parts.tolist():
        if number >= 0:
            union |= primitives.masks[number].roll((row, column), (0, 1))
    return union


def with_wrong_pixels(masks: Tensor, count: int, seed: int = 0) -> Tensor:
    """Masks (N, H, W) with `count` pixels flipped beside an edge of each."""
    white = masks[:, None].float()
    edge = F.max_pool2d(white, 3, 1, 1) + F.max_pool2d(1 - white, 3, 1, 1) == 2
    chance = torch.rand(white.shape, generator=random(seed)) * edge
    return masks ^ (chance >= chance.flatten(1).topk(count).values[:, -1].view(-1, 1, 1, 1))[:, 0]


BOTH = pytest.mark.parametrize("spec", [shapes.SPEC, patterns.SPEC], ids=lambda spec: spec.name)

# the shapes


def test_every_kind_and_size_of_shapes_is_there_once() -> None:
    primitives = of(shapes.SPEC)
    count = primitives.kind.bincount().tolist()
    triangles = set()  # a triangle is how wide its rows are; those that are too narrow for any pixel's centre are none
    for base, height in itertools.product(range(6, 15), repeat=2):
        rows = [[abs(2 * x + 1 - base) * 2 * height <= base * (2 * y + 1) for x in range(base)] for y in range(height)]
        triangles.add(tuple(sum(row) for row in rows if any(row)))
    assert count[:3] == [10, 13 * 13, len(triangles)]
    assert 0.95 * 16 * 32 < count[3] <= 16 * 32  # short lines of neighbouring directions may be the same pixels
    assert len(primitives.masks.flatten(1).unique(dim=0)) == len(primitives.masks) == sum(count)
    assert primitives.num_kinds == 4
    for kind, (low, high) in ((0, (6, 24)), (1, (4, 16))):
        masks = primitives.masks[primitives.kind == kind]
        assert (int(masks.any(1).sum(1).min()), int(masks.any(1).sum(1).max())) == (low, high)
    rectangles = {(int(mask.any(1).sum()), int(mask.any(0).sum())) for mask in primitives.masks[primitives.kind == 1]}
    assert rectangles == set(itertools.product(range(4, 17), range(4, 17)))


def test_every_kind_and_size_of_patterns_is_there_once() -> None:
    primitives = of(patterns.SPEC)
    assert primitives.kind.tolist() == [0] * 10 + [1] * 19
    across = primitives.masks.any(1).sum(1).tolist()
    assert across == [2 * r + 1 for r in range(5, 15)] + list(range(8, 27))
    assert [int(mask.sum()) for mask in primitives.masks[10:]] == [side**2 for side in range(8, 27)]


@BOTH
def test_masks_lie_at_the_top_left(spec: DataSpec) -> None:
    masks = of(spec).masks
    assert masks[:, 0].any(1).all()
    assert masks[:, :, 0].any(1).all()


def test_equal_masks_are_one_shape_of_the_first_kind() -> None:
    square, bar = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    square[0, 2:4, 1:3] = True
    bar[0, 1:2, 0:3] = True
    primitives = Primitives([square, torch.cat([bar, square.roll(2, 1)])])
    assert primitives.kind.tolist() == [0, 1]
    assert primitives.num_kinds == 2


@BOTH
def test_coverage_and_spill_are_counts_of_pixels(spec: DataSpec) -> None:
    primitives = of(spec)
    P, H, W = primitives.masks.shape
    white = torch.rand(H, W, generator=random()) > 0.4
    coverage, spill = primitives.coverage(white), primitives.spill(white)
    which = torch.randperm(P, generator=random())[:20]
    rows, columns = some_places(primitives, which)
    drawn = primitives.drawn(which, rows * W + columns)
    for mask, number, row, column in zip(drawn, which, rows, columns, strict=True):
        assert torch.equal(mask, primitives.masks[number].roll((int(row), int(column)), (0, 1)))
        assert mask.sum() == primitives.masks[number].sum()
        assert coverage[number, row, column] == (mask & white).sum()
        assert spill[number, row, column] == (mask & ~white).sum()
        below, beside = H - int(mask.any(1).sum()), W - int(mask.any(0).sum())
        assert spill[number].isfinite().nonzero().amax(0).tolist() == [below, beside]
        assert spill[number].isfinite().sum() == (below + 1) * (beside + 1)


def test_data_without_such_shapes_have_no_primitives() -> None:
    assert primitives_of(DataSpec("mnist", 1, 28, 28, tuple("0123456789"))) is None
    assert primitives_of(DataSpec("shapes", 3, 32, 32, ())) is None  # a folder of pictures that has this name
    with pytest.raises(ValueError, match="the data set mnist does not draw shapes"):
        judge(torch.zeros(1, 1, 28, 28), DataSpec("mnist", 1, 28, 28, ()))


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    primitives_of.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it was not installed
    with pytest.raises(UserError, match=r"needs cv2: pip install 'shapedreamer\[data\]'"):
        primitives_of(patterns.SPEC)


# what is found


@BOTH
def test_each_shape_alone_is_recognised_as_itself(spec: DataSpec) -> None:
    primitives = of(spec)
    _, _, W = primitives.masks.shape
    which = torch.arange(0, len(primitives.masks), 9 if spec == shapes.SPEC else 1)
    rows, columns = some_places(primitives, which)
    iou, wrong, counts, parts = explained(images(primitives.drawn(which, rows * W + columns)), primitives)
    assert (iou == 1).all()
    assert (wrong == 0).all()
    assert torch.equal(counts, F.one_hot(primitives.kind[which], primitives.num_kinds).float())
    assert torch.equal(parts[:, 0], torch.stack([which, rows, columns], dim=1))
    assert (parts[:, 1:] == -1).all()
    assert set(primitives.kind[which].tolist()) == set(range(primitives.num_kinds))


@BOTH
def test_disjoint_shapes_are_counted(spec: DataSpec) -> None:
    primitives = of(spec)
    H = spec.height
    kinds = list(itertools.combinations_with_replacement(range(primitives.num_kinds), 2))
    smallest = [int((primitives.kind == kind).nonzero()[0]) for kind in range(primitives.num_kinds)]
    corners = [(0, 0), (H // 2 + 1, H // 2), (0, H // 2 + 2)]
    drawn, parts = [], []
    for a, b in kinds:
        its = [(smallest[kind], *corner) for kind, corner in zip((a, b, a)[: 2 + (a == b)], corners, strict=False)]
        drawn.append(torch.stack([primitives.masks[n].roll((y, x), (0, 1)) for n, y, x in its]))
        assert drawn[-1].sum(0).max() == 1  # they do not touch the same pixel
        parts.append(its)
    iou, _, counts, found = explained(images(torch.stack([masks.any(0) for masks in drawn])), primitives)
    assert (iou == 1).all()
    assert counts.sum(1).tolist() == [len(its) for its in parts]
    for its, its_found in zip(parts, found.tolist(), strict=True):
        assert {tuple(part) for part in its_found if part[0] >= 0} == set(its)


@BOTH
def test_real_images_are_found_to_be_what_they_are(spec: DataSpec) -> None:
    real, labels = first(spec, 30)
    found = explained(real, of(spec))
    assert (found.iou >= VALID).float().mean() >= 0.95
    assert (found.wrong <= SAME).float().mean() >= 0.95
    single = labels.sum(1) == 1
    assert single.sum() > 5
    assert torch.equal(found.counts[single], labels[single])
    assert (found.counts == labels).all(1).float().mean() >= 0.8  # some shapes hide others
    assert (found.counts.sum(1) <= labels.sum(1)).all()


@BOTH
def test_the_numbers_are_those_of_the_union_that_is_returned(spec: DataSpec) -> None:
    primitives = of(spec)
    white = with_wrong_pixels(first(spec, 8)[0][:, 0] > 0, 12)
    found = explained(images(white), primitives)
    assert (found.wrong > 0).all()
    for mask, iou, wrong, counts, parts in zip(white, *found, strict=True):
        union = redrawn(primitives, parts)
        assert iou.item() == pytest.approx(((union & mask).sum() / (union | mask).sum()).item())
        assert wrong == (union ^ mask).sum()
        assert torch.equal(primitives.kind[parts[parts[:, 0] >= 0, 0]].bincount(minlength=len(counts)).float(), counts)


@BOTH
def test_a_few_wrong_pixels_change_neither_number_nor_kind(spec: DataSpec) -> None:
    real, labels = first(spec, 60)
    large = (labels.sum(1) == 1) & ((real > 0).sum((1, 2, 3)) >= 50)
    assert large.sum() > 8
    found = explained(images(with_wrong_pixels(real[large, 0] > 0, SAME)), of(spec))
    assert (found.wrong <= SAME).all()
    assert torch.equal(found.counts, labels[large])


# which union is taken


def test_the_search_comes_as_far_as_trying_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validity, "MOST_SHAPES", 2)
    monkeypatch.setattr(validity, "SAME", 0)
    size = 12
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    rectangles = [(row < h) & (column < w) for h, w in itertools.product(range(3, 7), repeat=2)]
    circles = [(row - r) ** 2 + (column - r) ** 2 <= r**2 for r in (2, 3, 4)]
    primitives = Primitives([torch.stack(circles), torch.stack(rectangles)])
    which, place = primitives.spill(torch.zeros(size, size, dtype=torch.bool)).flatten(1).isfinite().nonzero().unbind(1)
    placed = primitives.drawn(which, place)
    white = with_wrong_pixels(placed[torch.randint(len(placed), (30, 2), generator=random())].any(1), 5)
    found = explained(images(white), primitives).iou

    flat = placed.flatten(1).double()
    covered = flat.sum(1)[:, None] + flat.sum(1) - flat @ flat.T
    best = []
    for pixels in white.flatten(1):
        hit = flat @ pixels.double()
        hit_by_both = hit[:, None] + hit - flat @ (flat * pixels).T
        best.append((hit_by_both / (pixels.sum() + covered - hit_by_both)).max())  # a shape with itself is one alone
    short = torch.stack(best) - found
    assert short.min() > -1e-6
    assert (short < 1e-6).float().mean() >= 0.9
    assert short.mean() < 0.002


def test_where_the_best_single_shape_is_none_of_those_drawn_the_search_goes_on_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hard = data_of(shapes.SPEC).batch(torch.tensor([68, 107]))[0]
    assert (explained(hard, of(shapes.SPEC)).iou == 1).all()
    monkeypatch.setattr(validity, "BEAM", 1)
    assert (explained(hard, of(shapes.SPEC)).iou < 0.95).all()


def a_rectangle(top: int, left: int, height: int, width: int) -> Tensor:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.mark.parametrize(("more", "number"), [(SAME, 1), (SAME + 1, 2)])
def test_one_more_shape_must_mend_more_than_a_few_pixels(more: int, number: int) -> None:
    picture = a_rectangle(8, 8, 14, 14) | a_rectangle(22, 10, 2, more // 2) | a_rectangle(22, 10, 1, more - more // 2)
    found = explained(images(picture[None]), of(shapes.SPEC))
    assert picture.sum() == 14 * 14 + more
    assert found.counts.sum() == number
    assert found.wrong == (more if number == 1 else 0)


def test_it_need_not_where_the_image_is_valid_only_with_it() -> None:
    picture = torch.zeros(32, 32, dtype=torch.bool)
    picture[9:13, 9:14] = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 0]]).bool()
    found = explained(images(picture[None]), of(shapes.SPEC))
    assert found.iou == 1
    assert found.counts.tolist() == [[0, 0, 0, 2]]
    one = picture & a_rectangle(10, 9, 2, 5)  # a line: all but two of the pixels, and yet an IoU of 10/12
    assert explained(images(one[None]), of(shapes.SPEC)).counts.tolist() == [[0, 0, 0, 1]]


def test_only_the_sign_of_a_pixel_matters() -> None:
    real = first(shapes.SPEC, 3)[0]
    grey = real * torch.rand(real.shape, generator=random()).clamp(min=0.01)
    for a, b in zip(explained(real, of(shapes.SPEC)), explained(grey, of(shapes.SPEC)), strict=True):
        assert torch.equal(a, b)


def test_images_are_judged_one_by_one_and_progress_is_told() -> None:
    real = first(shapes.SPEC, 4)[0]
    told: list[int] = []
    together = explained(real, of(shapes.SPEC), told.append)
    assert told == [1, 2, 3, 4]
    for i in range(4):
        for one, all_of_them in zip(explained(real[i : i + 1], of(shapes.SPEC)), together, strict=True):
            assert torch.equal(one[0], all_of_them[i])


def test_black_images_have_no_shapes_and_specks_are_not_valid() -> None:
    smallest = int(of(shapes.SPEC).masks.sum((1, 2)).min())
    black = torch.zeros(32, 32, dtype=torch.bool)
    speck = black.clone()
    speck.view(-1)[100 : 100 + smallest - 1] = True
    found = explained(images(torch.stack([black, speck])), of(shapes.SPEC))
    assert found.iou[0] == 0
    assert found.counts[0].tolist() == [0, 0, 0, 0]
    assert (found.parts[0] == -1).all()
    assert 0 < found.iou[1] < VALID
    everything = explained(torch.ones(1, 1, 32, 32), of(shapes.SPEC))  # more than three shapes can cover
    assert 0 < everything.iou.item() < VALID


def test_images_of_another_size_are_refused() -> None:
    for shape in ((2, 1, 64, 64), (2, 3, 32, 32)):
        with pytest.raises(ValueError, match=r"not \(N, 1, 32, 32\)"):
            explained(torch.zeros(shape), of(shapes.SPEC))


# what is not made of shapes


def blobs(size: int, count: int, width: int) -> Tensor:
    """Smooth noise, a fifth of it white."""
    noise = torch.randn(count, 1, size + 2 * (width - 1), size + 2 * (width - 1), generator=random())
    smooth = F.avg_pool2d(F.avg_pool2d(noise, width, 1), width, 1)
    return images((smooth > smooth.flatten(1).quantile(0.8, dim=1).view(-1, 1, 1, 1))[:, 0])


@BOTH
def test_noise_and_blobs_are_not_valid(spec: DataSpec) -> None:
    noise = torch.randn(2, 1, spec.height, spec.width, generator=random())
    assert (explained(torch.cat([noise, blobs(spec.height, 5, 5)]), of(spec)).iou < 0.8).all()


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
def test_other_figures_are_not_valid(stroke: str) -> None:
    assert explained(images(STROKES[stroke][None]), of(shapes.SPEC)).iou.item() < 0.9


def rounded(real: Tensor, width: int = 7, threshold: float = 0.4) -> Tensor:
    """Images with round corners and near shapes melted together."""
    return images((F.avg_pool2d((real > 0).float(), width, 1, width // 2) > threshold)[:, 0])


@BOTH
def test_rounded_shapes_are_neither_exact_nor_what_was_asked_for(spec: DataSpec) -> None:
    real, labels = first(spec, 16)
    sharp, soft = (judge(its, spec, labels) for its in (real, rounded(real)))
    assert sharp.exact >= 0.9
    assert soft.exact <= 0.25
    assert soft.valid < sharp.valid
    assert sharp.asked is not None
    assert soft.asked is not None
    assert soft.asked < 0.4 < 0.8 < sharp.asked


def test_two_circles_melted_into_one_are_not_two_circles() -> None:
    melted = torch.exp(-((X - 6) ** 2 + Y**2) / 40) + torch.exp(-((X + 6) ** 2 + Y**2) / 40) > 0.5
    report = judge(images(melted[None]), shapes.SPEC, torch.tensor([[2.0, 0, 0, 0]]))
    assert report.exact == 0
    assert report.asked == 0


# the report


def test_crispness_by_hand() -> None:
    pixels = torch.tensor([-1.0, -0.8, -0.79, 0.0, 0.79, 0.8, 0.9, 1.0])
    assert crispness(pixels.view(1, 1, 2, 4)) == 5 / 8
    assert crispness(first(shapes.SPEC, 4)[0]) == 1
    uniform = torch.linspace(-1, 1, 10_001).view(1, 1, 1, -1)
    assert crispness(uniform) == pytest.approx(0.2, abs=1e-3)


def test_a_report_by_hand() -> None:
    primitives = of(shapes.SPEC)
    circle, line = (primitives.masks[primitives.kind == kind][0] for kind in (0, 3))
    masks = torch.stack([circle, R < 0, circle | line.roll((20, 20), (0, 1)), STROKES["ring"]])
    asked = torch.tensor([[0.0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]])
    told: list[int] = []
    its = images(masks)
    its[0] *= 0.5  # no pixel of it is crisp
    report = judge(its, shapes.SPEC, asked, told.append)
    assert told == [1, 2, 3, 4]
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
    assert judge(its, shapes.SPEC).asked is None


def test_a_report_on_no_valid_image_says_that_it_has_nothing_to_count() -> None:
    report = judge(images(STROKES["ring"][None]), shapes.SPEC, torch.ones(1, 4))
    assert (report.valid, report.shapes, report.kinds, report.asked) == (0, None, None, None)


def test_an_image_that_is_valid_need_not_be_exact() -> None:
    white = with_wrong_pixels(R[None] < 11, 14)
    report = judge(images(white), shapes.SPEC)
    assert report.valid == 1
    assert report.exact == 0
