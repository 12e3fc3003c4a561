"""The sprites: a pure function of (seed, index), whole figures with dark outlines on white, parts that fit together."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch

from shapedreamer.common.noise import bits, fold
from shapedreamer.data.drawn import sprite_parts as parts
from shapedreamer.data.drawn import sprites
from shapedreamer.data.drawn.sprite_parts import BASE, GLINT, INK, LIGHT, RAMPS, SHADOW, Part, glowing, part, shaded
from shapedreamer.data.drawn.sprites import COLOURS, DRAW, FIRST_SHADE, KINDS, SIZE, SPEC, WORDS, Dice, Layer, Sprites

MOST = 2**32 - 1
HUMAN, NON_HUMAN, FOOD, SPELL, SIDE_FACING = range(len(KINDS))
MOST_PIECES = {SPELL: 8}  # four sparks, and a spell in four pieces; all else is in one
SMALLEST, LARGEST = 50, 230  # pixels of a sprite with its outlines


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray]:
    """2,500 images (N, 16, 16, 3) uint8 and their kinds (N,)."""
    images, labels = Sprites(seed=9).batch(torch.arange(2500))
    pixels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels, labels.argmax(1).numpy()


def brightness(colours: np.ndarray) -> np.ndarray:
    """0…255, of colours (..., 3), as the eye weighs red, green and blue."""
    return colours @ np.array([0.299, 0.587, 0.114])


def figure(images: np.ndarray) -> np.ndarray:
    return (images != 255).any(-1)


def neighbours(mask: np.ndarray) -> np.ndarray:
    """The pixels (..., H, W) that share a side with one of the mask."""
    wide = np.pad(mask, [(0, 0)] * (mask.ndim - 2) + [(1, 1), (1, 1)])
    return wide[..., 2:, 1:-1] | wide[..., :-2, 1:-1] | wide[..., 1:-1, 2:] | wide[..., 1:-1, :-2]


def flooded(mask: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The pixels of a mask that can be reached from `start`, from side to side."""
    reached = start & mask
    while True:
        more = reached | (neighbours(reached) & mask)
        if (more == reached).all():
            return reached
        reached = more


def pieces(mask: np.ndarray) -> int:
    count = 0
    while mask.any():
        first = np.zeros_like(mask)
        first[np.unravel_index(mask.argmax(), mask.shape)] = True
        mask = mask & ~flooded(mask, first)
        count += 1
    return count


def dice(n: int, seed: int = 3) -> Iterator[Dice]:
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
    # Models are published with the seed of their data: "image 7 of seed 0" must stay the picture that they were trained
    # on. Any change of a part, a colour, the order of the random words or the seed's folding changes this number.
    images, labels = Sprites(seed=0).batch(torch.arange(256))
    pixels = ((images + 1) * 127.5).round().byte()
    picture = hashlib.sha256(pixels.numpy().tobytes() + labels.byte().numpy().tobytes()).hexdigest()
    assert picture == "e3e00aec5c192af932723c402902ecee2911b939e0e6496b44bbcf2da7b90d5c"


def test_images_are_what_the_spec_says() -> None:
    data = Sprites(samples=200)
    images, labels = data.batch(torch.arange(200))
    assert data.spec is SPEC
    assert SPEC.check(images) is images
    assert SPEC.labels == KINDS
    assert images.dtype == labels.dtype == torch.float32
    assert labels.shape == (200, 5)
    assert len(data) == 200
    assert images.max() == 1
    steps = (images + 1) * 127.5  # every value is that of a byte
    assert torch.equal(steps.round() / 127.5 - 1, images)


def test_an_empty_batch_is_empty() -> None:
    images, labels = Sprites().batch(torch.arange(0))
    assert images.shape == (0, 3, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert labels.shape == (0, 5)


def test_labels_are_one_hot_and_kinds_equally_frequent(many: tuple[np.ndarray, np.ndarray]) -> None:
    labels = Sprites(seed=9).batch(torch.arange(500))[1]
    assert (labels.sum(1) == 1).all()
    assert (labels.max(1).values == 1).all()
    n = len(many[1])
    frequency = (np.bincount(many[1], minlength=5) / n).tolist()
    assert frequency == pytest.approx([1 / 5] * 5, abs=4 * math.sqrt(4 / 25 / n))


def test_the_first_word_is_the_kind_and_the_others_draw_it() -> None:
    words = bits(fold(5, Sprites.purpose, 0), torch.arange(60), WORDS).tolist()
    images, labels = Sprites(seed=5).batch(torch.arange(60))
    for i, (first, *rest) in enumerate(words):
        kind = first * len(KINDS) >> 32
        assert labels[i, kind] == 1
        alone = COLOURS[sprites.flattened([DRAW[kind](Dice(rest))])][0]
        assert torch.equal(torch.from_numpy(alone).permute(2, 0, 1).float() / 127.5 - 1, images[i])


def test_almost_all_images_are_distinct(many: tuple[np.ndarray, np.ndarray]) -> None:
    images, kinds = many
    for kind in range(len(KINDS)):
        mine = [image.tobytes() for image in images[kinds == kind]]
        assert len(set(mine)) >= 0.97 * len(mine), KINDS[kind]
    assert len({image.tobytes() for image in images}) >= 0.98 * len(images)


def test_seeds_give_other_sets_and_held_out_images_are_others() -> None:
    index = torch.arange(400)
    sets = [Sprites(seed=0), Sprites(seed=1), Sprites(seed=2**64 - 1), Sprites(seed=0, held_out=True)]
    images = [{image.numpy().tobytes() for image in data.batch(index)[0]} for data in sets]
    for i, one in enumerate(images):
        for other in images[:i]:
            assert len(one & other) <= 2  # the set of all sprites is finite
    words = [bits(data.seed, index[:50], WORDS).flatten() for data in (sets[0], sets[3])]
    assert not torch.isin(words[0], words[1]).any()


@pytest.mark.parametrize("samples", [0, -1, 2**32 + 1])
def test_impossible_numbers_of_images_are_refused(samples: int) -> None:
    with pytest.raises(ValueError, match=f"samples must be between 1 and 2³², not {samples}"):
        Sprites(samples=samples)


def test_impossible_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="a seed must be between"):
        Sprites(seed=-1)


@pytest.mark.parametrize("index", [[-1], [10], [0, 10], [3, -1, 5]])
def test_indices_outside_are_refused(index: list[int]) -> None:
    with pytest.raises(IndexError, match=r"is outside 0…9"):
        Sprites(samples=10).batch(torch.tensor(index))


def test_the_largest_data_set_has_a_last_image() -> None:
    images, _ = Sprites(samples=2**32).batch(torch.tensor([MOST]))
    assert images.min() < 0


# the figures


def test_the_background_is_white_and_surrounds_the_figure(many: tuple[np.ndarray, np.ndarray]) -> None:
    inside = figure(many[0])
    area = inside.sum((1, 2))
    assert area.min() >= SMALLEST
    assert area.max() <= LARGEST
    border = np.ones((SIZE, SIZE), bool)
    border[1:-1, 1:-1] = False
    assert (~inside & border).any((1, 2)).all()
    assert (inside & border).any()  # and figures go as far as the border


def test_outlines_are_dark_and_closed(many: tuple[np.ndarray, np.ndarray]) -> None:
    images, _ = many
    inside, bright = figure(images), brightness(images)
    edge = inside & neighbours(~inside)
    assert edge.any((1, 2)).all()
    assert bright[edge].max() < 80
    border = np.ones((SIZE, SIZE), bool)
    border[1:-1, 1:-1] = False
    assert bright[inside & border].max() < 80  # nothing is cut off
    for one, dark, light in zip(inside & ~edge, edge, bright, strict=True):
        assert light[dark].mean() < light[one].mean()


def test_figures_are_in_one_piece(many: tuple[np.ndarray, np.ndarray]) -> None:
    seen: Counter[int] = Counter()
    for mask, kind in zip(figure(many[0]), many[1].tolist(), strict=True):
        count = pieces(mask)
        assert count <= MOST_PIECES.get(kind, 1), KINDS[kind]
        seen[count] += 1
    assert seen[2] > 0  # sparks


def test_creatures_are_mirrored_and_walkers_are_not(many: tuple[np.ndarray, np.ndarray]) -> None:
    inside = figure(many[0])
    mirrored = (inside == inside[:, :, ::-1]).all((1, 2))
    assert mirrored[many[1] == NON_HUMAN].all()
    assert not mirrored[many[1] == SIDE_FACING].any()


def test_people_are_mirrored_apart_from_what_they_hold() -> None:
    for each in dice(300):
        body = max((layer.pixels > 0 for layer in sprites.human(each)), key=np.sum)
        columns = np.flatnonzero(body.any(0))
        body = body[:, columns[0] : columns[-1] + 1]
        assert (body == body[:, ::-1]).all()


def test_those_who_walk_look_to_the_right() -> None:
    for art in parts.SIDE_HEADS.values():
        assert np.argwhere(art.pixel == INK)[:, 1].mean() > (art.pixel.shape[1] - 1) / 2
    for art in (*parts.BEAST_HEADS.values(), *parts.BEASTS.values()):
        eye = parts.FIRST_MATERIAL + art.materials.index("e")
        assert np.argwhere(art.pixel == eye)[:, 1].mean() >= (art.pixel.shape[1] - 1) / 2


def test_light_comes_from_the_top_left(many: tuple[np.ndarray, np.ndarray]) -> None:
    images, kinds = many
    lit = kinds != SPELL
    bright = brightness(images[lit].astype(float))
    inner = figure(images[lit]) & ~neighbours(~figure(images[lit]))
    place = np.add.outer(np.arange(SIZE), np.arange(SIZE))
    left, right = inner & (place < SIZE - 3), inner & (place > SIZE + 1)
    assert bright[left].mean() > bright[right].mean() + 10


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
    clothes = sprites.clothes(next(dice(1)))[0]
    furs = sprites.furs(next(dice(1)))
    hat = clothes | sprites.hat_colours(next(dice(1)), clothes, "steel")
    fruit = {"w": "brown", "l": "green"}
    creature = set("abewcryl")
    painted: list[tuple[Mapping[str, Part], set[str]]] = [
        *((sheet, set(clothes)) for sheet in (parts.HEADS, parts.EYES, parts.HAIR, parts.BEARDS, parts.TORSOS)),
        *((sheet, set(clothes)) for sheet in (parts.LEGS, parts.CAPES, parts.WEAPONS, parts.BACKS)),
        *((sheet, set(clothes)) for sheet in (parts.SIDE_HEADS, parts.SIDE_HAIR, parts.SIDE_BEARDS, parts.SIDE_LEGS)),
        *((sheet, set(clothes)) for sheet in (parts.SIDE_TORSOS, parts.SIDE_WEAPONS)),
        *((sheet, set(hat)) for sheet in (parts.HATS, parts.SIDE_HATS)),
        *(
            (sheet, set(furs))
            for sheet in (parts.BEASTS, parts.BEAST_HEADS, parts.BEAST_LEGS, parts.TRUNKS, parts.TAILS)
        ),
        *((sheet, creature) for sheet in (parts.CREATURES, parts.EARS, parts.FACES, parts.MUZZLES, parts.BODIES)),
        *((sheet, creature) for sheet in (parts.MONSTER_EYES, parts.MOUTHS, parts.TOPS, parts.SIDES, parts.FEET)),
        (parts.SHIELDS, set("abw")),
        (parts.FRUIT, set("a")),
        (parts.STALKS, set(fruit)),
        (parts.GLINTS, set()),
        (parts.RITES, set("abc")),
        (parts.MISSILES, set("abc")),
    ]
    for sheet, materials in painted:
        assert len(sheet) >= 3
        for name, art in sheet.items():
            assert set(art.materials) <= materials, name
            assert max(art.pixel.shape) <= SIZE, name


def test_every_material_of_every_food_has_colours() -> None:
    assert set(parts.FOOD) == set(parts.FOOD_COLOURS)
    for name, art in parts.FOOD.items():
        choices = parts.FOOD_COLOURS[name]
        assert set(art.materials) == set(choices), name
        known = set(RAMPS)
        for material, colours in choices.items():
            assert set(colours) <= known, (name, material)
            known.add(material)


def test_a_choice_may_be_the_colour_of_another_material() -> None:
    table = {"a": ("red", "blue"), "b": ("a",), "c": ("b", "gold")}
    seen = {tuple(sprites.chosen(each, table).values()) for each in dice(100)}
    assert seen == {(a, a, c) for a in ("red", "blue") for c in (a, "gold")}


# parts


def test_a_part_is_what_its_text_says() -> None:
    art = parts.sheet("""
        one two
        aB. #*
        bb. .c
    """)
    assert list(art) == ["one", "two"]
    assert art["one"].materials == "ab"
    assert art["one"].pixel.tolist() == [[3, 4, 0], [4, 4, 0]]
    assert art["one"].shade[0, 1] == SHADOW
    assert art["two"].pixel.tolist() == [[INK, GLINT], [0, 3]]
    assert art["two"].shade.tolist() == [[0, 0], [0, BASE]]
    assert (art["one"].shade[art["one"].pixel > 0] > 0).all()


def test_halves_are_mirrored() -> None:
    art = parts.halves("name\n.a#\nab.")["name"]
    assert art.rows == (".a##a.", "ab..ba")
    for sheet in (parts.HEADS, parts.HAIR, parts.TORSOS, parts.CREATURES, parts.FACES, parts.PATTERNS):
        for each in sheet.values():
            assert (each.pixel == each.pixel[:, ::-1]).all()
            assert each.pixel.shape[1] == SIZE


def test_a_flipped_part_is_lit_from_the_left_as_well() -> None:
    art = parts.FOOD["drumstick"]
    flipped = art.flipped()
    assert (flipped.pixel == art.pixel[:, ::-1]).all()
    assert (flipped.shade != art.shade[:, ::-1]).any()
    for each in (art, flipped):
        y, x = np.nonzero(each.shade == LIGHT)
        dark_y, dark_x = np.nonzero(each.shade == SHADOW)
        assert y.mean() < dark_y.mean()
        assert x.mean() < dark_x.mean()
    assert flipped.flipped() is art


def test_ragged_art_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        parts.sheet("one two\naa bb\naa")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 5), (8, 8), (5, 2), (10, 3)])
def test_shades_of_a_rectangle(width: int, height: int) -> None:
    mask = np.zeros((12, 12), bool)
    mask[1 : 1 + height, 1 : 1 + width] = True
    shade = shaded(mask)
    for y in range(height):
        for x in range(width):
            across = (x + 0.5) / width + (y + 0.5) / height
            expected = LIGHT if across < 0.5 else SHADOW if across > 1.35 else BASE
            assert shade[1 + y, 1 + x] == expected, (x, y)


def test_each_row_and_column_of_a_thing_is_shaded_by_its_own_length() -> None:
    mask = np.array([list(row) for row in ("..##....", ".######.", "########", ".######.")]) == "#"
    assert (shaded(mask.T) == shaded(mask).T).all()
    apart = np.zeros((4, 9), bool)  # two legs are two things
    apart[:, [1, 2, 6, 7]] = True
    shade = shaded(apart)
    assert (shade[:, 1:3] == shade[:, 6:8]).all()
    assert shade[0, 1] == LIGHT
    assert shade[-1, 2] == SHADOW


def test_a_glow_is_brighter_the_deeper() -> None:
    mask = np.zeros((11, 11), bool)
    mask[1:-1, 1:-1] = True
    y, x = np.mgrid[:11, :11]
    depth = np.minimum(np.minimum(x, 10 - x), np.minimum(y, 10 - y))
    assert (glowing(mask) == np.minimum(depth, LIGHT)).all()
    assert glowing(np.ones((5, 5), bool))[0, 0] == SHADOW  # beyond the frame there is nothing


# layers


def test_outlines_lie_around_a_layer_in_its_darkest_shade() -> None:
    layer = Layer()
    layer.pixels[5, 5] = FIRST_SHADE["red"] + LIGHT
    layer.pixels[9, 9], layer.pixels[9, 12] = INK, GLINT
    expected = layer.pixels.copy()
    for y, x, dark in ((5, 5, FIRST_SHADE["red"]), (9, 9, INK), (9, 12, INK)):
        for side in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            expected[side] = dark
    assert (sprites.flattened([[layer]])[0] == expected).all()


def test_layers_cover_one_another_with_their_outlines() -> None:
    back, front = Layer(), Layer()
    back.pixels[4:12, 4:12] = FIRST_SHADE["red"] + BASE
    front.pixels[6:8, 6:8] = FIRST_SHADE["blue"] + BASE
    flat = sprites.flattened([[back, front], [front], []])
    assert flat[0, 7, 7] == FIRST_SHADE["blue"] + BASE
    assert flat[0, 5, 6] == flat[0, 8, 7] == FIRST_SHADE["blue"]
    assert flat[0, 5, 5] == FIRST_SHADE["red"] + BASE
    assert flat[0, 3, 5] == FIRST_SHADE["red"]
    assert (flat[1] == sprites.flattened([[front]])[0]).all()
    assert not flat[2].any()


def test_the_border_is_for_outlines() -> None:
    layer = Layer()
    layer.pixels[:] = FIRST_SHADE["red"] + BASE
    flat = sprites.flattened([[layer]])[0]
    assert (flat[1:-1, 1:-1] == FIRST_SHADE["red"] + BASE).all()
    assert (flat[0, 1:-1] == FIRST_SHADE["red"]).all()
    assert not flat[0, 0]


def test_paint_goes_where_it_should_and_what_is_outside_is_cut_off() -> None:
    art = part(("aab", "a.b"))
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


def test_recolouring_keeps_the_shades_and_spares_other_ramps() -> None:
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


def test_dice_are_fair_and_go_through_the_words_in_order() -> None:
    assert [Dice([word]).roll(6) for word in (0, MOST // 6, MOST // 6 + 1, MOST)] == [0, 0, 1, 5]
    each = Dice([0, 2**31, MOST])
    assert [each.roll(10) for _ in range(3)] == [0, 5, 9]
    assert Dice([0]).chance(1)
    assert not Dice([MOST]).chance(99)
    assert Dice([2**31]).pick("abcd") == "c"
    assert all(len(set(each.some("abcde", 4))) == 4 for each in dice(50))
    assert Counter("".join(sorted(each.some("abc", 2))) for each in dice(600)).keys() == {"ab", "ac", "bc"}


def test_there_are_words_enough() -> None:
    extremes = [[0] * WORDS, [MOST] * WORDS, [2**31] * WORDS]
    for words in (*extremes, *bits(8, torch.arange(1500), WORDS).tolist()):
        for draw in DRAW:
            assert draw(Dice(words[1:]))


def test_grown_bodies_are_mirrored_and_have_room_for_eyes() -> None:
    for each in dice(100):
        body = sprites.grown_body(each)
        assert (body == body[:, ::-1]).all()
        assert body[4:13].any(1).all()
        assert not body[:4].any()
        assert not body[13:].any()
        assert body[6:10, 4:12].all()
        assert pieces(body) == 1


def test_squeezing_leaves_out_rows_and_columns_and_stays_in_the_middle() -> None:
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[1:-1, 1:-1] = [*range(1, 8), *range(7, 0, -1)]  # mirrored, and each row the same
    sizes = set()
    for each in dice(200):
        small = sprites.squeezed(pixels, each)
        rows, columns = np.flatnonzero(small.any(1)), np.flatnonzero(small.any(0))
        assert (small == small[:, ::-1]).all()
        assert (small[rows] == small[rows[0]]).all()
        assert set(small[rows[0], columns].tolist()) <= set(range(1, 8))
        assert abs(rows[0] - (SIZE - 1 - rows[-1])) <= 1
        sizes.add((len(rows), len(columns)))
    assert sizes == {(height, width) for height in (12, 13, 14) for width in (12, 14)}


def test_a_square_is_turned_in_eight_ways() -> None:
    pixels = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
    ways = {sprites.turned(pixels, each).tobytes() for each in dice(200)}
    flips = (pixels, pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1])
    assert ways == {way.tobytes() for flip in flips for way in (flip, flip.T)}


def test_rays_are_the_same_in_every_mirror_and_whirls_after_half_a_turn() -> None:
    # Four arms that bend the same way, and no mirror, would be a swastika.
    for each in dice(200):
        for draw in (sprites.burst, sprites.star):
            mask = draw(each)
            for same in (mask[::-1], mask[:, ::-1], mask.T):
                assert (mask == same).all()
            assert pieces(mask | neighbours(mask)) == 1
        whirl = sprites.whirl(each)
        assert (whirl == whirl[::-1, ::-1]).all()
        assert (whirl != np.rot90(whirl)).any()


def test_orbs_and_signs_lie_inside_one_another() -> None:
    for each in dice(200):
        _, ball, core = sprites.orb(each)
        assert not (core & ~ball).any()
        assert core.any()
        ring, sign = sprites.sigil(each)
        assert not (ring & sign).any()
        outside = np.zeros((SIZE, SIZE), bool)
        outside[0, 0] = True
        assert not flooded(~ring, outside)[7, 7]  # the ring is closed
        assert sign[7, 7]
