"""Sprites: a pure function of (seed, index); complete figures with dark outlines on white."""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from shapedreamer.common.noise import bits, fold
from shapedreamer.data.drawn import sprites
from shapedreamer.data.drawn.sprite_files import load_colours, load_sheets
from shapedreamer.data.drawn.sprite_parts import (
    BASE,
    FIRST_MATERIAL,
    GLINT,
    INK,
    LIGHT,
    make_part,
)
from shapedreamer.data.drawn.sprites import (
    COLOURS,
    DRAW,
    FIRST_SHADE,
    KINDS,
    RAMPS,
    SIZE,
    SPEC,
    WORDS,
    Dice,
    Layer,
    Sprites,
)

MAX_WORD = 2**32 - 1
HUMAN, NON_HUMAN, FOOD, SPELL, SIDE_FACING = range(len(KINDS))
MAX_PIECES = {SPELL: 8}  # four sparks and a spell in four pieces; the other kinds have one piece
MIN_AREA, MAX_AREA = 50, 230  # pixels of a sprite with its outlines


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray]:
    """2,500 images (N, 16, 16, 3) uint8 and their kinds (N,)."""
    images, labels = Sprites(seed=9).batch(torch.arange(2500))
    pixels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels, labels.argmax(1).numpy()


def brightness(colours: np.ndarray) -> np.ndarray:
    """The luma, 0…255, of colours (..., 3)."""
    return colours @ np.array([0.299, 0.587, 0.114])


def figure(images: np.ndarray) -> np.ndarray:
    """The pixels that are not background: (..., H, W) bool."""
    return (images != 255).any(-1)


def neighbours(mask: np.ndarray) -> np.ndarray:
    """The pixels (..., H, W) that share a side with a pixel of the mask."""
    padded = np.pad(mask, [(0, 0)] * (mask.ndim - 2) + [(1, 1), (1, 1)])
    return padded[..., 2:, 1:-1] | padded[..., :-2, 1:-1] | padded[..., 1:-1, 2:] | padded[..., 1:-1, :-2]


def flood_fill(mask: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The pixels of a mask that are 4-connected to `start`."""
    reached = start & mask
    while True:
        more = reached | (neighbours(reached) & mask)
        if (more == reached).all():
            return reached
        reached = more


def count_pieces(mask: np.ndarray) -> int:
    """The number of 4-connected components."""
    count = 0
    while mask.any():
        first = np.zeros_like(mask)
        first[np.unravel_index(mask.argmax(), mask.shape)] = True
        mask = mask & ~flood_fill(mask, first)
        count += 1
    return count


def all_dice(n: int, seed: int = 3) -> Iterator[Dice]:
    return map(Dice, bits(seed, torch.arange(n), WORDS).tolist())


# the data set


def test_an_image_is_a_pure_function_of_seed_and_index() -> None:
    data = Sprites(samples=300, seed=3)
    index = torch.tensor([7, 299, 0, 7, 130])
    images, labels = data.batch(index)
    for i, n in enumerate(index.tolist()):
        for other in (data, Sprites(samples=2000, seed=3)):
            image, label = other.batch(torch.tensor([n]))
            assert torch.equal(image[0], images[i])
            assert torch.equal(label[0], labels[i])
    whole = data.batch(torch.arange(300))[0]
    assert torch.equal(whole[index], images)
    assert torch.equal(data.batch(torch.arange(299, -1, -1))[0].flip(0), whole)


def test_the_first_images_never_change() -> None:
    # Published models refer to their data by seed, so "image 7 of seed 0" must stay the same image. Any change to a
    # part, a colour, the order of the random words or the folding of the seed changes this hash.
    images, labels = Sprites(seed=0).batch(torch.arange(256))
    pixels = ((images + 1) * 127.5).round().byte()
    digest = hashlib.sha256(pixels.numpy().tobytes() + labels.byte().numpy().tobytes()).hexdigest()
    assert digest == "e3e00aec5c192af932723c402902ecee2911b939e0e6496b44bbcf2da7b90d5c"


def test_images_match_the_spec() -> None:
    data = Sprites(samples=200)
    images, labels = data.batch(torch.arange(200))
    assert data.spec is SPEC
    assert SPEC.check(images) is images
    assert SPEC.labels == KINDS
    assert images.dtype == labels.dtype == torch.float32
    assert labels.shape == (200, 5)
    assert len(data) == 200
    assert images.max() == 1
    levels = (images + 1) * 127.5  # every value is an 8-bit level
    assert torch.equal(levels.round() / 127.5 - 1, images)


def test_an_empty_batch_is_empty() -> None:
    images, labels = Sprites().batch(torch.arange(0))
    assert images.shape == (0, 3, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert labels.shape == (0, 5)


def test_labels_are_one_hot_and_all_kinds_equally_frequent(many: tuple[np.ndarray, np.ndarray]) -> None:
    labels = Sprites(seed=9).batch(torch.arange(500))[1]
    assert (labels.sum(1) == 1).all()
    assert (labels.max(1).values == 1).all()
    n = len(many[1])
    frequency = (np.bincount(many[1], minlength=5) / n).tolist()
    assert frequency == pytest.approx([1 / 5] * 5, abs=4 * math.sqrt(4 / 25 / n))


def test_the_first_word_selects_the_kind_and_the_others_draw_it() -> None:
    words = bits(fold(5, Sprites.purpose, 0), torch.arange(60), WORDS).tolist()
    images, labels = Sprites(seed=5).batch(torch.arange(60))
    for i, (first_word, *other_words) in enumerate(words):
        kind = first_word * len(KINDS) >> 32
        assert labels[i, kind] == 1
        expected = COLOURS[sprites.flatten([DRAW[kind](Dice(other_words))])][0]
        assert torch.equal(torch.from_numpy(expected).permute(2, 0, 1).float() / 127.5 - 1, images[i])


def test_almost_all_images_are_distinct(many: tuple[np.ndarray, np.ndarray]) -> None:
    images, kinds = many
    for kind in range(len(KINDS)):
        of_kind = [image.tobytes() for image in images[kinds == kind]]
        assert len(set(of_kind)) >= 0.97 * len(of_kind), KINDS[kind]
    assert len({image.tobytes() for image in images}) >= 0.98 * len(images)


def test_other_seeds_and_the_held_out_set_give_other_images() -> None:
    index = torch.arange(400)
    sets = [Sprites(seed=0), Sprites(seed=1), Sprites(seed=2**64 - 1), Sprites(seed=0, held_out=True)]
    images = [{image.numpy().tobytes() for image in data.batch(index)[0]} for data in sets]
    for first, second in itertools.combinations(images, 2):
        assert len(first & second) <= 2  # the set of all sprites is finite
    words = [bits(data.seed, index[:50], WORDS).flatten() for data in (sets[0], sets[3])]
    assert not torch.isin(words[0], words[1]).any()


@pytest.mark.parametrize("samples", [0, -1, 2**32 + 1])
def test_an_invalid_number_of_samples_is_refused(samples: int) -> None:
    with pytest.raises(ValueError, match=f"samples must be between 1 and 2³², not {samples}"):
        Sprites(samples=samples)


def test_an_invalid_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="a seed must be between"):
        Sprites(seed=-1)


@pytest.mark.parametrize("index", [[-1], [10], [0, 10], [3, -1, 5]])
def test_an_index_out_of_range_is_refused(index: list[int]) -> None:
    with pytest.raises(IndexError, match=r"is outside 0…9"):
        Sprites(samples=10).batch(torch.tensor(index))


def test_the_largest_data_set_has_a_last_image() -> None:
    images, _ = Sprites(samples=2**32).batch(torch.tensor([MAX_WORD]))
    assert images.min() < 0


# the figures


def test_the_background_is_white_and_surrounds_the_figure(many: tuple[np.ndarray, np.ndarray]) -> None:
    inside = figure(many[0])
    area = inside.sum((1, 2))
    assert area.min() >= MIN_AREA
    assert area.max() <= MAX_AREA
    border = np.ones((SIZE, SIZE), bool)
    border[1:-1, 1:-1] = False
    assert (~inside & border).any((1, 2)).all()
    assert (inside & border).any()  # some figures reach the border


def test_outlines_are_dark_and_closed(many: tuple[np.ndarray, np.ndarray]) -> None:
    images, _ = many
    inside, bright = figure(images), brightness(images)
    edge = inside & neighbours(~inside)
    assert edge.any((1, 2)).all()
    assert bright[edge].max() < 80
    border = np.ones((SIZE, SIZE), bool)
    border[1:-1, 1:-1] = False
    assert bright[inside & border].max() < 80  # only outlines are on the border, so nothing is cut off
    for interior, outline, luma in zip(inside & ~edge, edge, bright, strict=True):
        assert luma[outline].mean() < luma[interior].mean()


def test_a_figure_is_in_one_piece(many: tuple[np.ndarray, np.ndarray]) -> None:
    seen: Counter[int] = Counter()
    for mask, kind in zip(figure(many[0]), many[1].tolist(), strict=True):
        count = count_pieces(mask)
        assert count <= MAX_PIECES.get(kind, 1), KINDS[kind]
        seen[count] += 1
    assert seen[2] > 0  # sparks


def test_creatures_are_symmetric_and_walkers_are_not(many: tuple[np.ndarray, np.ndarray]) -> None:
    inside = figure(many[0])
    symmetric = (inside == inside[:, :, ::-1]).all((1, 2))
    assert symmetric[many[1] == NON_HUMAN].all()
    assert not symmetric[many[1] == SIDE_FACING].any()


def test_people_are_symmetric_except_for_what_they_hold() -> None:
    for dice in all_dice(300):
        body = max((layer.pixels > 0 for layer in sprites.human(dice)), key=np.sum)
        columns = np.flatnonzero(body.any(0))
        body = body[:, columns[0] : columns[-1] + 1]
        assert (body == body[:, ::-1]).all()


def test_side_facing_figures_look_to_the_right() -> None:
    sheets = load_sheets()
    for art in sheets["side_heads"].values():
        assert np.argwhere(art.pixel == INK)[:, 1].mean() > (art.pixel.shape[1] - 1) / 2
    for art in (*sheets["beast_heads"].values(), *sheets["beasts"].values()):
        eye = FIRST_MATERIAL + art.materials.index("e")
        assert np.argwhere(art.pixel == eye)[:, 1].mean() >= (art.pixel.shape[1] - 1) / 2


def test_light_comes_from_the_top_left(many: tuple[np.ndarray, np.ndarray]) -> None:
    images, kinds = many
    lit = kinds != SPELL
    bright = brightness(images[lit].astype(float))
    inner = figure(images[lit]) & ~neighbours(~figure(images[lit]))
    diagonal = np.add.outer(np.arange(SIZE), np.arange(SIZE))
    top_left, bottom_right = inner & (diagonal < SIZE - 3), inner & (diagonal > SIZE + 1)
    assert bright[top_left].mean() > bright[bottom_right].mean() + 10


# colours


def test_ramps_go_from_dark_to_light() -> None:
    for name, ramp in RAMPS.items():
        assert ramp.shape == (4, 3)
        assert (np.diff(brightness(ramp)) > 10).all(), name
        assert brightness(ramp)[0] < 80, name


def test_only_the_background_is_white() -> None:
    assert COLOURS.dtype == np.uint8
    assert COLOURS[0].tolist() == [255, 255, 255]
    assert (COLOURS[1:] != 255).any(1).all()
    assert brightness(COLOURS[INK]) < 40
    assert brightness(COLOURS[GLINT]) > 250
    for name, ramp in RAMPS.items():
        assert (COLOURS[FIRST_SHADE[name] :][:4] == ramp).all()
    assert len({tuple(colour) for colour in COLOURS.tolist()}) == len(COLOURS)


def test_every_material_of_every_part_has_a_colour() -> None:
    clothes = sprites.clothes(next(all_dice(1)))[0]
    furs = sprites.furs(next(all_dice(1)))
    hat = clothes | sprites.hat_colours(next(all_dice(1)), clothes, "steel")
    fruit = {"w": "brown", "l": "green"}
    creature = set("abewcryl")
    painted: list[tuple[str, set[str]]] = [
        *((sheet, set(clothes)) for sheet in ("heads", "eyes", "hair", "beards", "torsos")),
        *((sheet, set(clothes)) for sheet in ("legs", "capes", "weapons", "back_items")),
        *((sheet, set(clothes)) for sheet in ("side_heads", "side_hair", "side_beards", "side_legs")),
        *((sheet, set(clothes)) for sheet in ("side_torsos", "side_weapons")),
        *((sheet, set(hat)) for sheet in ("hats", "side_hats")),
        *((sheet, set(furs)) for sheet in ("beasts", "beast_heads", "beast_legs", "trunks", "tails")),
        *((sheet, creature) for sheet in ("creatures", "ears", "faces", "muzzles", "bodies")),
        *((sheet, creature) for sheet in ("creature_eyes", "mouths", "tops", "sides", "feet")),
        ("shields", set("abw")),
        ("fruit", set("a")),
        ("stalks", set(fruit)),
        ("glints", set()),
        ("upright_spells", set("abc")),
        ("flying_spells", set("abc")),
    ]
    assert {sheet for sheet, _ in painted} == load_sheets().keys() - {"food", "markings"}
    for sheet, materials in painted:
        assert len(load_sheets()[sheet]) >= 3
        for name, art in load_sheets()[sheet].items():
            assert set(art.materials) <= materials, name
            assert max(art.pixel.shape) <= SIZE, name


def test_every_material_of_every_food_has_colours() -> None:
    foods, colours_of = load_sheets()["food"], load_colours().food
    assert set(foods) == set(colours_of)
    for name, art in foods.items():
        choices = colours_of[name]
        assert set(art.materials) == set(choices), name
        known = set(RAMPS)
        for material, colours in choices.items():
            assert set(colours) <= known, (name, material)
            known.add(material)


def test_a_food_colour_can_refer_to_an_earlier_material() -> None:
    table = {"a": ("red", "blue"), "b": ("a",), "c": ("b", "gold")}
    seen = {tuple(sprites.food_colours(dice, table).values()) for dice in all_dice(100)}
    assert seen == {(a, a, c) for a in ("red", "blue") for c in (a, "gold")}


# layers


def test_a_layer_is_outlined_in_the_darkest_shade_of_its_ramps() -> None:
    layer = Layer()
    layer.pixels[5, 5] = FIRST_SHADE["red"] + LIGHT
    layer.pixels[9, 9], layer.pixels[9, 12] = INK, GLINT
    expected = layer.pixels.copy()
    for y, x, dark in ((5, 5, FIRST_SHADE["red"]), (9, 9, INK), (9, 12, INK)):
        for side in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            expected[side] = dark
    assert (sprites.flatten([[layer]])[0] == expected).all()


def test_a_front_layer_and_its_outline_cover_the_layers_behind() -> None:
    back, front = Layer(), Layer()
    back.pixels[4:12, 4:12] = FIRST_SHADE["red"] + BASE
    front.pixels[6:8, 6:8] = FIRST_SHADE["blue"] + BASE
    flat = sprites.flatten([[back, front], [front], []])
    assert flat[0, 7, 7] == FIRST_SHADE["blue"] + BASE
    assert flat[0, 5, 6] == flat[0, 8, 7] == FIRST_SHADE["blue"]
    assert flat[0, 5, 5] == FIRST_SHADE["red"] + BASE
    assert flat[0, 3, 5] == FIRST_SHADE["red"]
    assert (flat[1] == sprites.flatten([[front]])[0]).all()
    assert not flat[2].any()


def test_the_border_is_reserved_for_outlines() -> None:
    layer = Layer()
    layer.pixels[:] = FIRST_SHADE["red"] + BASE
    flat = sprites.flatten([[layer]])[0]
    assert (flat[1:-1, 1:-1] == FIRST_SHADE["red"] + BASE).all()
    assert (flat[0, 1:-1] == FIRST_SHADE["red"]).all()
    assert not flat[0, 0]


def test_a_part_is_painted_at_its_position_and_clipped_to_the_frame() -> None:
    art = make_part(("aab", "a.b"))
    colours = {"a": "red", "b": "blue"}
    for top in range(-2, SIZE + 1):
        for left in range(-3, SIZE + 1):
            pixels = Layer().paint(art, colours, top, left).pixels
            assert pixels.shape == (SIZE, SIZE)
            for y in range(SIZE):
                for x in range(SIZE):
                    inside = 0 <= y - top < 2 and 0 <= x - left < 3
                    letter = art.rows[y - top][x - left] if inside else "."
                    ramp = FIRST_SHADE[colours[letter]] if letter != "." else 0
                    assert pixels[y, x] // 4 * 4 == ramp


def test_recolouring_keeps_the_shades_and_leaves_other_ramps_alone() -> None:
    layer = Layer()
    layer.pixels[0, :4] = FIRST_SHADE["red"] + np.arange(4)
    layer.pixels[1, :4] = FIRST_SHADE["gold"] + np.arange(4)
    layer.pixels[2, :4] = [0, INK, GLINT, FIRST_SHADE["red"]]
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:, :3] = True
    before = layer.pixels.copy()
    layer.recolour(mask, "red", "blue")
    assert layer.pixels[0, :4].tolist() == [*(FIRST_SHADE["blue"] + s for s in range(3)), FIRST_SHADE["red"] + LIGHT]
    assert (layer.pixels[1:] == before[1:]).all()


# dice and shapes


def test_dice_are_uniform_and_use_the_words_in_order() -> None:
    assert [Dice([word]).roll(6) for word in (0, MAX_WORD // 6, MAX_WORD // 6 + 1, MAX_WORD)] == [0, 0, 1, 5]
    dice = Dice([0, 2**31, MAX_WORD])
    assert [dice.roll(10) for _ in range(3)] == [0, 5, 9]
    assert Dice([0]).chance(1)
    assert not Dice([MAX_WORD]).chance(99)
    assert Dice([2**31]).pick("abcd") == "c"
    assert all(len(set(dice.pick_distinct("abcde", 4))) == 4 for dice in all_dice(50))
    assert Counter("".join(sorted(dice.pick_distinct("abc", 2))) for dice in all_dice(600)).keys() == {"ab", "ac", "bc"}


def test_there_are_enough_random_words() -> None:
    extreme_words = [[0] * WORDS, [MAX_WORD] * WORDS, [2**31] * WORDS]
    for words in (*extreme_words, *bits(8, torch.arange(1500), WORDS).tolist()):
        for draw in DRAW:
            assert draw(Dice(words[1:]))


def test_random_bodies_are_symmetric_and_have_space_for_eyes() -> None:
    for dice in all_dice(100):
        body = sprites.random_body(dice)
        assert (body == body[:, ::-1]).all()
        assert body[4:13].any(1).all()
        assert not body[:4].any()
        assert not body[13:].any()
        assert body[6:10, 4:12].all()
        assert count_pieces(body) == 1


def test_squeezing_removes_rows_and_columns_and_keeps_the_figure_centred() -> None:
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[1:-1, 1:-1] = [*range(1, 8), *range(7, 0, -1)]  # symmetric, all rows equal
    sizes = set()
    for dice in all_dice(200):
        small = sprites.squeeze(pixels, dice)
        rows, columns = np.flatnonzero(small.any(1)), np.flatnonzero(small.any(0))
        assert (small == small[:, ::-1]).all()
        assert (small[rows] == small[rows[0]]).all()
        assert set(small[rows[0], columns].tolist()) <= set(range(1, 8))
        assert abs(rows[0] - (SIZE - 1 - rows[-1])) <= 1
        sizes.add((len(rows), len(columns)))
    assert sizes == {(height, width) for height in (12, 13, 14) for width in (12, 14)}


def test_rotate_or_flip_reaches_all_eight_symmetries_of_the_square() -> None:
    pixels = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
    results = {sprites.rotate_or_flip(pixels, dice).tobytes() for dice in all_dice(200)}
    flips = (pixels, pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1])
    assert results == {image.tobytes() for flip in flips for image in (flip, flip.T)}


def test_bursts_and_stars_have_every_mirror_symmetry_and_whirls_only_a_half_turn() -> None:
    # Four arms bent the same way, without mirror symmetry, would be a swastika.
    for dice in all_dice(200):
        for draw in (sprites.burst, sprites.star):
            mask = draw(dice)
            for mirrored in (mask[::-1], mask[:, ::-1], mask.T):
                assert (mask == mirrored).all()
            assert count_pieces(mask | neighbours(mask)) == 1
        whirl = sprites.whirl(dice)
        assert (whirl == whirl[::-1, ::-1]).all()
        assert (whirl != np.rot90(whirl)).any()


def test_a_core_lies_in_its_orb_and_a_sign_in_its_ring() -> None:
    for dice in all_dice(200):
        _, ball, core = sprites.orb(dice)
        assert not (core & ~ball).any()
        assert core.any()
        ring, sign = sprites.sigil(dice)
        assert not (ring & sign).any()
        outside = np.zeros((SIZE, SIZE), bool)
        outside[0, 0] = True
        assert not flood_fill(~ring, outside)[7, 7]  # the ring is closed
        assert sign[7, 7]
