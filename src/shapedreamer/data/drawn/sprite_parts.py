"""The parts that sprites are put together from: ramps of colour, and pixel art written as text.

A sheet has parts side by side, with their names on top. In a part each character is a pixel:

    .     nothing: what was painted before stays
    a-z   a material; which colour it has is said when the part is painted. It is lit from the top left
    A-Z   the same material in shadow
    #     ink
    *     a glint

Most parts are the left half of something and are mirrored. Outlines are not drawn here: sprites.py adds them.
"""

import functools
from dataclasses import dataclass

import numpy as np

SHADOW, BASE, LIGHT = 1, 2, 3  # the shades of a ramp, from dark to light; the darkest, 0, is for outlines
INK, GLINT = 1, 2  # what a pixel can be besides a material
FIRST_MATERIAL = 3


@dataclass(frozen=True, eq=False)
class Part:
    """Pixel art without colour.

    rows:      the art as text, H rows of W characters
    materials: the letters in it, lower-case, in the order of the alphabet
    pixel:     (H, W): 0 where there is nothing, INK, GLINT, or FIRST_MATERIAL + the place of the letter in `materials`
    shade:     (H, W) uint8: SHADOW, BASE or LIGHT for materials, 0 elsewhere
    """

    rows: tuple[str, ...]
    materials: str
    pixel: np.ndarray
    shade: np.ndarray

    def flipped(self) -> "Part":
        """The mirror image, and it too is lit from the left."""
        return part(tuple(row[::-1] for row in self.rows))


def shaded(mask: np.ndarray) -> np.ndarray:
    """The shade of each pixel of a solid thing (H, W) bool that is lit from the top left: SHADOW, BASE or LIGHT.

    What counts is how far across the thing a pixel lies, along its row and its column: 0 at the left end (the top),
    1 at the right end (the bottom). The two add up to less than 0.5 in the light and more than 1.35 in shadow.
    """
    (x, wide), (y, high) = _along(mask), (run.T for run in _along(mask.T))
    across = x * high + y * wide  # the sum of the two fractions, times wide · high
    return np.where(2 * across < wide * high, LIGHT, np.where(20 * across > 27 * wide * high, SHADOW, BASE))


def glowing(mask: np.ndarray) -> np.ndarray:
    """The shade of each pixel of a thing (H, W) bool that glows from inside: SHADOW at its rim, then BASE, then LIGHT."""
    depth = np.zeros(mask.shape, np.uint8)
    for _ in range(LIGHT):
        depth += mask
        wide = np.pad(mask, 1)
        mask = mask & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return depth


def _along(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each pixel's centre is along its run of pixels in the row, and how long the run is, in half pixels."""
    place, width = np.arange(mask.shape[1]), mask.shape[1]
    before = np.maximum.accumulate(np.where(mask, -1, place), axis=1)
    after = np.minimum.accumulate(np.where(mask, width, place)[:, ::-1], axis=1)[:, ::-1]
    return 2 * (place - before) - 1, 2 * (after - before - 1)


@functools.cache
def part(rows: tuple[str, ...]) -> Part:
    art = np.array([list(row) for row in rows])
    letters = np.char.lower(art)
    materials = "".join(sorted(set(letters.ravel()) - set(".#*")))
    pixel, shade = np.select([art == "#", art == "*"], [INK, GLINT], 0), np.zeros(art.shape, np.uint8)
    for place, letter in enumerate(materials):
        mask = letters == letter
        pixel[mask] = FIRST_MATERIAL + place
        shade[mask] = np.where(art == letter, shaded(mask), SHADOW)[mask]
    return Part(rows, materials, pixel, shade)


def sheet(text: str) -> dict[str, Part]:
    """Parts by name."""
    names, *lines = (line.split() for line in text.strip().splitlines())
    return dict(zip(names, map(part, zip(*lines, strict=True)), strict=True))


def halves(text: str) -> dict[str, Part]:
    """Parts by name, from their left halves."""
    return {name: part(tuple(row + row[::-1] for row in half.rows)) for name, half in sheet(text).items()}


def choices(text: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """For each thing, the colours that each of its materials may have, from: NAME MATERIAL=COLOUR|COLOUR…"""
    table: dict[str, dict[str, tuple[str, ...]]] = {}
    thing: dict[str, tuple[str, ...]] = {}
    for word in text.split():
        material, equals, colours = word.partition("=")
        if equals:
            thing[material] = tuple(colours.split("|"))
        else:
            thing = table[word] = {}
    return table


def ramps(text: str) -> dict[str, np.ndarray]:
    """Colours (4, 3) uint8 by name, from hexadecimal numbers, below a line of headings."""
    table = {}
    for line in text.strip().splitlines()[1:]:
        name, *shades = line.split()
        table[name] = np.array([list(bytes.fromhex(shade)) for shade in shades], np.uint8)
    return table


# Shadows lean to blue and purple, lights to yellow, as they do outdoors; and no colour is the white of the background.
RAMPS = ramps("""
          outline shadow base   light
red        3f0d1f 9b1b30 d8343a f47a62
orange     4a1a10 b0481a e8822a fbbf5a
gold       4a2a10 b8741a f0b82e fce88a
lime       1f3a14 5a9a22 9cd03a d8f07a
green      0f2f1e 1f7040 3fa850 8fdc72
teal       0c2f38 13707a 2aaea4 7fe6c8
blue       141a4a 2a48a8 3f7fe0 86c4f8
navy       0e1230 202c6a 3a4c9c 6c86cc
purple     260e48 5c2a98 9250d0 cc96f0
pink       481030 b83c7c f078b0 fcbcd8
brown      28140e 60381e 945c30 c8925a
brunette   160a0c 3a2018 5c3820 865c38
tan        40281a 96683c cca068 eccf9c
grey       1c1e2a 585c70 9096a8 ccd2dc
steel      182030 566884 9cb0c8 e4eef6
white      3a3c50 a8aec4 dfe4ee fafcfe
charcoal   0c0a14 24222e 44424e 706e7c
bone       3c3428 a89878 e0d4b0 fbf4dc
porcelain  5a2a2a d8906c f8c8a0 fde6cc
peach      4c221a c07a50 e8ac7c f8d0a4
olive      3e1c14 9c5c34 c88850 e4b07c
umber      2e140e 6e3c22 9c5e38 c4885a
ebony      20100e 4a281c 7c4a2e a4704a
fire       5a0c14 e0401a fca020 fef080
ice        14306a 4a90e0 90d4f8 e4faff
thunder    5a3a06 e0a018 fcdc40 fffab8
poison     143410 4a9a18 90e030 dcffa0
arcane     30086a 8a2cd0 d468f8 fcc4ff
holy       5e4414 d8a840 fae694 fffce0
shadow     0a0614 38205c 6a40a0 a880dc
water      0a2458 1c68c8 40a8f0 a0e8ff
curse      42061a b8143a f04a68 fea8a0
wind       0e3c3c 3a9c90 84dcc8 dcfff0
""")

# People, seen from the front. Their materials: skin s, hair h, eyes e, cloth a, trim b, metal m, trousers l, shoes f.
# Heads are eight pixels wide. Hair and hats start two rows above the head; eyes and beards in its fourth row.

HEADS = halves("""
round    square   long
.....sss ....ssss .....sss
....ssss ....ssss .....sss
....ssss ....ssss ....ssss
....ssss ....ssss ....ssss
....ssss ....ssss .....sss
.....sss .....sss .....sss
""")

EYES = halves("""
tall     dot      bright   closed   far      iris
......#. ........ ......#. ........ .....#.. ......#.
......#. ......#. .....*#. .....##. .....#.. ......E.
""")

HAIR = halves("""
bald     crop     bowl     long     spiky    mohawk   bun      pigtails afro     curls    fringe   bob
........ ........ ........ ........ ........ .......h ......hh ........ ........ ........ ........ ........
........ .....hhh .....hhh .....hhh ...h.hhh .......h .....hhh .....hhh ....hhhh ....hhhh .....hhh .....hhh
........ ....hhhh ....hhhh ....hhhh ....hhhh ......hh ....hhhh ....hhhh ...hhhhh ...hhhhh ....hhhh ....hhhh
........ ....HH.. ....hhhh ....hhHH ....h.hH ......hH ....hHHH ....hhHH ...hhhHH ...hhHhH ....hhhh ...hhhhh
........ ....H... ....H... ....h... ....h... ........ ....H... ....H... ...hh... ...hH... ....h... ...hh...
........ ........ ....H... ....h... ........ ........ ........ ..hH.... ...hh... ...hh... ....h... ...hh...
........ ........ ........ ....h... ........ ........ ........ ..hh.... ....h... ...h.... ........ ...hh...
........ ........ ........ ....h... ........ ........ ........ ..hh.... ........ ........ ........ ........
........ ........ ........ ....H... ........ ........ ........ ...h.... ........ ........ ........ ........
""")

BEARDS = halves("""
shaven   stubble  full     moustache long     goatee
........ ........ ....h... ........  ....h... ........
........ ....S... ....hh.. .....hhh  ....hhhh ........
........ .....SSS ....hhhh ........  ....hhHH .......h
........ ........ .....hhh ........  .....hhh .......h
........ ........ ........ ........  .....hhh ........
........ ........ ........ ........  ......hh ........
""")

HATS = halves("""
crown    wizard   helm     horned   cap      tophat   bandana
........ .......a ........ ........ ........ ....aaaa ........
....m.mm ......aa .....mmm ..b..mmm .....aaa ....aaaa .....aaa
....mmmm .....aaa ....mmmm ..bbmmmm ....aaaa ....aaaa ....aaaa
....mMmm ....bbbb ....mmmm ...bMmmm ....aaaa ....bbbb ....bbbb
........ ...aaaaa ....bbbb ....bbbb ...bbbbb ..aaaaaa ........
........ ........ ....M... ........ ........ ........ ........
........ ........ ....M... ........ ........ ........ ........
........ ........ ........ ........ ........ ........ ........
........ ........ ........ ........ ........ ........ ........
""")
HATS |= halves("""
straw    chef     hood     knight   tiara    turban   mitre
........ ....aaaa ........ .......b ........ ........ .......a
.....aaa ....aaaa .....aaa .....mmb .......m .....aaa ......ab
....aaaa .....aaa ....aaaa ....mmmm .....mmm ...aaaaa .....aab
....bbbb .....bbb ...aaaAA ....mmmm ........ ...aaaab ....aaab
..aaaaaa ........ ...aA... ....M### ........ ....aabb ....bbbb
........ ........ ...aA... ....mmmM ........ ........ ........
........ ........ ...aA... ....mmMM ........ ........ ........
........ ........ ...aaA.. .....mmm ........ ........ ........
........ ........ ....aaa. ........ ........ ........ ........
""")

# four rows from below the head: shoulders, arms, hands
TORSOS = halves("""
tunic    vest     plate    coat     dress    bare     striped  sash     apron    mail     collar   scarf    robe
....aaaa ....abbb ..mmmmmm ....aabb ....sssS ....sSSS ....aaaa ....aaab ....aabb ....mmmm ....bbbb ...bbbbb ....aaab
...a#aaa ...s#bbb ..mm#mmm ...a#abb ...s#aaa ...s#sss ...a#bbb ...a#aba ...s#bbb ...m#MmM ...a#bbb ...a#bbb ...a#aab
...a#aaa ...s#abb ..a#mmmm ...a#aab ...s#aaa ...s#ssS ...a#aaa ...a#baa ...s#bbb ...m#mMm ...a#aab ...a#aab ..aa#aab
...s#bbb ...s#aaa ..m#mMmM ...s#aab ...s#bbb ...s#bbb ...s#bbb ...s#aaa ...s#bbb ...s#bbb ...s#aaa ...s#aab ..as#aab
""")

# the last seven rows
LEGS = halves("""
trousers boots    shorts   robe     gown     kilt     armour   wide
.....lll .....lll .....lll .....aaa .....aaa .....lll .....mmm .....lll
.....lll .....lll .....lll .....aab .....aaa .....lll .....mmm .....lll
.....lll .....lll .....lll .....aab ....aaaa .....lll .....mmm .....lll
.....lll .....lll .....lll ....aaab ....aaAa ....llll .....mmm ....llll
.....lll .....lll .....lll ....aaab ...aaaAa ....lLlL .....mmm ....lll.
.....ll. ....fff. .....ss. ....aAab ...aAaAa .....ss. .....MM. ...lll..
....fff. ....fff. ....fff. ....bbbb ...bbbbb ....fff. ....mmm. ...fff..
""")

# held in the hand, which is to the right of the eighth row; wood w, handle g, fire y
WEAPONS = sheet("""
sword dagger spear staff axe hammer wand torch bow trident mace broom club lantern banner halberd
...   ...    .m.   ggg   ... ...    ...  ...   ... m.m     ...  .w.   ...  ...     bbb    .m.
.m.   ...    .m.   ggg   ... mmm    ...  .y.   .w. m.m     mmm  .w.   .w.  ...     bbb    mmm
.m.   ...    mmm   ggg   mm. mmm    ...  .yy   w*. mmm     mmm  .w.   www  ...     bbb    mmm
.m.   ...    .w.   .w.   mmw mmm    .g.  yyy   w*. .w.     mmm  .w.   www  ...     b.b    mww
.m.   .m.    .w.   .w.   mmw .w.    .g.  yyy   w*. .w.     .w.  .w.   www  ...     .w.    .w.
.m.   .m.    .w.   .w.   .w. .w.    .w.  .y.   w*. .w.     .w.  .w.   .w.  .w.     .w.    .w.
ggg   ggg    .w.   .w.   .w. .w.    .w.  .w.   w*. .w.     .w.  .w.   .w.  .w.     .w.    .w.
.w.   .w.    .w.   .w.   .w. .w.    .w.  .w.   w*. .w.     .w.  .w.   .w.  mmm     .w.    .w.
.g.   ...    .w.   .w.   .w. .w.    ...  .w.   w*. .w.     .w.  .bb   .w.  yyy     .w.    .w.
...   ...    .w.   .w.   .w. .w.    ...  .w.   .w. .w.     ...  bbb   ...  yyy     .w.    .w.
...   ...    .w.   .w.   ... ...    ...  ...   ... .w.     ...  bbb   ...  mmm     .w.    .w.
""")

# behind the shoulders
CAPES = halves("""
plain    wide     wings
....bbbb ....bbbb .b......
...bbbbb ...bbbbb .bbb....
..bbbbbb ..bbbbbb .bbbbbbb
..bbbbbb ..bbbbbb ..bbbbbb
..bbbbbb ..bbbbbb ..b.bbbb
...bbbbb ..bbbbbb ......bb
""")

# held in front of the other arm; the hand is behind the third row
SHIELDS = sheet("""
round kite  tower buckler book  bag   lute
.aaa. aaaaa aaaaa .....   ..... ..... ....w
aabaa aabaa aabaa .aaa.   aaaaa ..b.. ...w.
abbba abbba abbba aabaa   a*baa .b.b. .aw..
aabaa aabaa aabaa abbba   aabaa aaaaa aaaa.
.aaa. .aba. aabaa aabaa   aabaa aaaaa aAAa.
..... ..a.. aaaaa .aaa.   aaaaa .aaa. .aa..
""")

# Creatures, seen from the front, in two colours a and b; eyes e, horns and claws w, steel c, tongue r, beak y, leaves l.

# nine rows; eyes go to the third row and a mouth to the seventh
BODIES = halves("""
round    bell     slime    square   egg      wide     pear     drop     hood     block    bean     diamond
.....aaa .....aaa ........ ...aaaaa ......aa .....aaa ......aa .......a .....aaa ..aaaaaa ....aaaa .......a
....aaaa ....aaaa ......aa ..aaaaaa .....aaa ...aaaaa .....aaa ......aa ....aaaa ..aaaaaa ...aaaaa ......aa
...aaaaa ...aaaaa .....aaa ..aaaaaa ....aaaa ..aaaaaa ....aaaa .....aaa ...aaAAA ..aaaaaa ...aaaaa ....aaaa
...aaaaa ...aaaaa ...aaaaa ..aaaaaa ....aaaa .aaaaaaa ....aaaa ....aaaa ...aA### ..aaaaaa ...aaaaa ...aaaaa
...aaaaa ...aaaaa ..aaaaaa ..aaaaaa ...aaaaa .aaaaaaa ...aaaaa ...aaaaa ...aA### ..aaaaaa ...aaaaa ..aaaaaa
...aaaaa ..aaaaaa ..aaaaaa ..aaaaaa ...aaaaa .aaaaaaa ..aaaaaa ...aaaaa ...aaAAA ..aaaaaa ...aaaaa ...aaaaa
...aaaaa ..aaaaaa .aaaaaaa ..aaaaaa ...aaaaa .aaaaaaa ..aaaaaa ...aaaaa ..aaaaaa ..aaaaaa ....aaaa ....aaaa
....aaaa ..aaaaaa .aaaaaaa ..aaaaaa ....aaaa ..aaaaaa ..aaaaaa ....aaaa ..aaaaaa ..aaaaaa ....aaaa .....aaa
.....aaa ..aa.aaa ..aaaaaa ...aaaaa .....aaa ...aaaaa ...aaaaa .....aaa .aaaaaaa ..aaaaaa .....aaa ......aa
""")

MONSTER_EYES = halves("""
dots     tall     big      angry    cyclops  sleepy   glowing  three    stare    slit     goggle   cross
........ .....#.. .....**. ....#... .....*** ........ ........ .......e ....**.. .....e.. ........ .....#.#
.....#.. .....#.. .....*#. ....*##. ....**## ....###. .....ee. ........ ....*#.. .....#.. ....*##. ......#.
.....#.. ........ .....**. .....*#. ....**## ........ .....ee. .....e.. ....**.. .....e.. ....***. .....#.#
........ ........ ........ ........ .....*** ........ ........ ........ ........ ........ ........ ........
""")

MOUTHS = halves("""
none     line     smile    fangs    teeth    open     grin     tongue   zigzag   beak
........ ......## .....#.. ....#### ....#### .....### ....#... ....#### .....#.# ......yy
........ ........ ......## .....*.. ....#*#* .....#rr ....#### .....rrr ....#.#. ......yY
........ ........ ........ ........ ....#### ......## .....#*# ......rr ........ .......y
""")

# behind the top of the body, which begins in the fourth row
TOPS = halves("""
none     horns    bull     ears     long     feelers  spikes   tuft     crown    unicorn  leaf     antlers  flame
........ ........ .w...... ........ .....a.. ...b.... .......a ........ ........ .......w .....l.. .w.w.... .......b
........ ...w.... .ww..... ...a.... ....ab.. ....A... ....a.aa ......aa .....y.y .......w .....lll ..ww.... .....bbb
........ ...ww... .www.... ...aa... ....ab.. .....A.. ..a.aaaa .....a.a .....yyy ......ww ......ll ...ww... ....bbbb
........ ....ww.. ..wwww.. ...aba.. ....aba. .....AA. ..aaaaaa ....aaaa .....yyy ......ww .......l ....ww.. .....bbb
........ .....w.. ....ww.. ....aa.. .....aa. ......A. ...aaaaa ....aaaa .....yyy ......ww .......l .....w.. .....bbb
""")

# behind the sides of the body, from its first row
SIDES = halves("""
none     bat      feather  up       down     pincer   tentacle fin      shoulder angel
........ .b...... ........ .aa..... ........ .w.ww... ........ ........ ........ .b......
........ .bb..... .bbb.... .aa..... ........ .wwww... .a...... ..b..... ..aaaa.. .bbb....
........ .bbb.... .bbbbb.. .aaa.... ...aaa.. ..ww.... .aa..... .bb..... .aaaaa.. .bbbbb..
........ .bBbb... .bbbbbb. ..aaaaa. ..aaaa.. ..aa.... .aaa.... .bbb.... .aAaaa.. .bBbbbb.
........ .b.Bbb.. ..bBbbb. ....aaa. ..aa.... ..aaaaa. ..aaaaa. .bbbbb.. .aa.aa.. ..bBbbb.
........ ...b.bb. ...bBbb. ........ ..aa.... ....aaa. ....aaa. ..bbbb.. .aa..... ..bbBbb.
........ .....b.. ....bbb. ........ ..ww.... ........ ........ ...bb... .aa..... ...bbb..
........ ........ ........ ........ ........ ........ ........ ........ .ww..... ....bb..
""")

# below the body, which ends in the first row
FEET = halves("""
none     stumps   claws    tentacle ragged   bird     big      wave
........ ....aa.. ....aa.. ...aaaaa ...aaaaa .....y.. ....aaa. ..aaaaaa
........ ....aa.. ....aa.. ..aa.aa. ...aa.aa .....y.. ...aaaa. ..aa.aa.
........ ...aaa.. ...www.. .aa..a.. ....a..a ....yyy. ..aaaa.. ...a..a.
""")

# whole
CREATURES = halves("""
bat      moth     skull    dragon   octopus  crab     beetle   ghost    imp      golem    plant    toadman
........ .aa..... ...a...a .w....w. ........ ........ ....#... ........ ........ ........ ........ ........
........ .aaa...# ..aa.aaa .ww...aa .....aaa .aa..... .....#.. .....aaa .w...... ....aaaa ....a.aa ......aa
.a....a. .aaaa.#. ..aaaaaa ..ww.aaa ....aaaa .aa.aa.. .....bbb ....aaaa .ww..aaa ....aaaa ...aaaaa ....aaaa
.aa...aa .aabaa.b ..awwwww ..wwaaaa ...aaaaa .a..aa#. ....b*#b ...aaaaa ..waaaaa ....aeea ...aabbb ...aaaaa
.aaa.aaa .abbbaab ..wwwwww ...aaaaa ...aaaaa .aaaa.*. .#..bbbb ...aaaaa ...aaaaa .bbbaaaa ..aabbbb ..aaaaaa
.aaaaeea .aabaabb ..ww##ww ..aaeeaa ...aa**a ..aa..a. ..#aaaaA ...aa##a ...aaeea .bbbb#aa ..aabb#b ..aAaaaa
.aAaae#a ..aaaabb ..w#e#ww ..aaa#ea ...aa*#a ...aaaaa .aaaaaaA ...aa##a ...aaa#a .bbbaaaa ...abbbb .AAAAAAA
.a.Aaaaa ...aaAbb ..w###w# ...aaaaa ...aaaaa ..aaaaaa .aaaAaaA ..aaaaaa ....aaaa .aa.aaAa ...aabbb ....bbbb
....Aaaa ..aaa.bb ..ww#ww# ....aaaa ....aaaa ..aAaaaa .aaaaaaA .aaaaaa# .b..a*#* .aa.aAaa ....aaaa ....b#bb
....aa*a .aaba..b ...wwww# ....abbb ...aaaaa ..aaa### .aaaaaaA .a.aaaa# .bbb.aaa .bbbaaaa .ll...ll ....b#bb
.....aaa .abaa..b ....wwww ....a#bb .aaaa.aa .aaaaaaa .aaAaaaA ...aaaaa .bbaaaaa .bbb#aaa ..lll.ll ....bbbb
......bb .aaaa... ....w#w# ....abbb .a.aa.aa .a.aaaaa .#aaaaaA ...aaaaa ...aaaaa .bb.aaa. ...lllll .....bbb
........ ..aa.... ....w#w# .....*#* .aa.aa.a .a.a.aaa .#.aaaaA ...aa.aa ....aa.. ...bbbb. .....lll ....bb..
........ ........ ........ ........ ........ ........ .....aaa ....a..a ...www.. ...bbbb. ........ ...bbb..
""")
CREATURES |= halves("""
robot    owl      penguin  alien    mimic    mummy    snowman  pumpkin  cactus   ent      beholder frogman
.......b ........ ........ ........ ........ ........ .....aaa .......l ........ .....lll ...b...b ........
.......A ...a.... .....aaa ....aaaa ........ .....aaa .....aaa ......ll .......b ...lllll ...b..bb ........
...aaaaa ...aa.aa ....aaaa ...aaaaa ..aaaaaa ....aaaa ...aaaaa ...aaaaA .....aaa ..llllll .b.A..A. ...aaa..
...a#### ...aaaaa ...aaaaa ..aaaaaa .aaaaaaa ....AAAA ....wwww ..aaAaaA ....aAaa ..lLllll .bb.Aaaa ..a**aaa
...a#ee# ...a***a ...aaw#w ..aaaaaa .aAAAAAA ....#e#e ...w#www .aaaAaaA .aa.aaaa ..llllLl ..Aaaaaa ..a*#aaa
...aaaaa ...a*#*a ...aawww ..a###aa .bbbbbbb ....AaAa ...wwwyy .aa#aaaA .aa.aAaa ..aaaaaa ..aa**** ...aaaaa
.....AAA ...a***y ..aaawyy ..a####a .a#ee### ....aAaA ....wwww .a###aaA .aaaa#aa ...a##aa .aa***** ..aaaaaa
.caaaaaa ..aaaaay ..aawwww ...a###a .#*#*#*# ...aaaaa .bbbbbbb .aaAaa#A ..aaa#aa ...a##aa .aa**ee# .a######
.caabbbb .aabbbbb .aaawwww ...aaaaa .####### ..aaAAAA ....wwbb .a#*#*#* ....aAaa .aaaaaaa .aa**e## ..aaaaaa
.c.abb#b .aabBbBb .aaawwww ....aaaa .#*#*#*# ..a.aaaa ...wwbb# .aa##### ....aaaa .a.aaaA# .aa***** ..aabbbb
.w.aaaaa .aabbbbb .a.awwww ....a### .bbbbbb# .aa.AAAA ..wwwwww ..aaAaaA ....aAaa ...aaa## ..aa**** .aaabbbb
...aa... ..abBbBb ...awwww .....aaa .aaaaaab ....aaaa ..wwwww# ...aaaaA ....aaaa ...aaaaa ..aaaaaa .aaabbbb
...aa... ...bbbbb ....wwww ........ .aaaaaab ....AA.. ..wwwwww ........ ....aaaa ..aa.aa. ....aaaa .a.aaaaa
..ccc... ....yy.. ...yyy.. ........ .AAAAAAA ....aa.. ...wwwww ........ ........ ..a..a.. ........ ..aaa.aa
""")

# faces of animals; ears start three rows above them and muzzles in their sixth row
FACES = halves("""
round    wide     long     jowls
....aaaa ....aaaa ....aaaa .....aaa
...aaaaa ..aaaaaa ...aaaaa ....aaaa
..aaaaaa ..aaaaaa ...aaaaa ...aaaaa
..aaaaaa .aaaaaaa ...aaaaa ...aaaaa
..aaaaaa .aaaaaaa ...aaaaa ..aaaaaa
..aaaaaa .aaaaaaa ...aaaaa .aaaaaaa
..aaaaaa .aaaaaaa ...aaaaa .aaaaaaa
..aaaaaa ..aaaaaa ....aaaa .aaaaaaa
...aaaaa ..aaaaaa ....aaaa ..aaaaaa
....aaaa ....aaaa .....aaa ....aaaa
""")
EARS = halves("""
cat      bear     rabbit   fox      mouse    pig      deer     goat     dog      tufts    frog     ram
........ ........ ...aa... .a...... ..aaa... ........ .w.w.... .w...... ........ ........ ........ ........
..a..... ..aaa... ..aaba.. .aa..... .aaaaa.. ........ .www.... .ww..... ........ ..a..... ........ ...ww...
..aa.... .aaaaa.. ..aaba.. .aba.... .abbba.. ..aa.... ...ww... ..ww.... ..aaa... ..aa.... ..aaaa.. ..wwwww.
..aba... .aabaa.. ..aaba.. .abba... .abbba.. ..aba... ....w... ..www... .aaaa... ..aaa... .aa**a.. .wwWwww.
..abba.. .aabba.. ...aba.. .abbba.. ..aaaa.. ..abba.. ....ww.. ...www.. .aaAa... ..aaaa.. .aa*#a.. .ww.ww..
..aaaa.. ..aaa... ...aaa.. .aaaa... ...aaa.. ...aaa.. .aaa.w.. ....ww.. .aAa.... ..aaaa.. .aa**a.. .www....
........ ........ ........ ........ ........ ........ ..aa.... ........ .aA..... ........ ..aaaa.. ..www...
........ ........ ........ ........ ........ ........ ........ ........ .aA..... ........ ........ ........
""")
MUZZLES = halves("""
cat      dog      pig      bird     tusks    tiger    mouse
......r# .....bb# ........ .....yyy ........ .....bbb .......r
.....bbb ....bbbb .....rrr ......yY .....bbb ....bb## ......bb
....bb#b ....bbb# .....r#r .......y ....b### ....bbb# .....bb#
.....bbb .....b## .....rrr ........ ....w.bb ....b##b .......*
........ .......r ........ ........ ........ .....bbb ........
""")

# where a creature, a beast or a fruit has its second colour instead of its first
PATTERNS = halves("""
none     belly    stripes  spots    half     mask     back     bands    crest    socks
........ ........ ........ ........ aaaaaaaa ........ .aaaaaaa ........ .......a ........
........ ........ ........ ...a.... aaaaaaaa ........ .aaaaaaa aaaaaaaa .......a ........
........ ........ ........ ........ aaaaaaaa ........ .aaaaaaa aaaaaaaa .......a ........
........ ........ aaa..... ......a. aaaaaaaa ........ ..aaaa.. ........ .......a ........
........ ........ ......aa ..a..... aaaaaaaa ........ ...a.... ........ ......aa ........
........ ........ aaa..... ........ aaaaaaaa ....aaaa ........ aaaaaaaa ......aa ........
........ ........ ......aa .....a.. a.aaa.aa ...aaaaa ........ aaaaaaaa .......a ........
........ ......aa aaa..... ........ ........ ...aaaaa ........ ........ .......a ........
........ .....aaa ......aa ..a..... ........ ....aaaa ........ ........ .......a ........
........ .....aaa aaa..... ......a. ........ .......a ........ aaaaaaaa ........ ........
........ .....aaa ......aa ....a... ........ ........ ........ aaaaaaaa ........ ........
........ .....aaa aaa..... ........ ........ ........ ........ ........ ........ aaaaaaaa
........ ......aa ......aa .a....a. ........ ........ ........ ........ ........ aaaaaaaa
........ ........ aaa..... ........ ........ ........ ........ aaaaaaaa ........ aaaaaaaa
........ ........ ........ ....a... ........ ........ ........ aaaaaaaa ........ aaaaaaaa
........ ........ ........ ........ ........ ........ ........ ........ ........ aaaaaaaa
""")

# Food. Round fruit, and what grows on top of it: leaf l, stem w
FRUIT = halves("""
apple    peach    plum     tomato   lemon    melon    quince   berry    ribbed
........ ........ ........ ........ .......a ........ ........ ........ ........
........ ........ ........ ........ .....aaa ...aaaaa ......aa ........ ........
...aaaA. ....aaaa .....aaa ........ ....aaaa ..aaaaaa .....aaa ........ ...aaAaa
..aaaaaa ...aaaaa ....aaaa ..aaaaaa ...aaaaa .aaaaaaa ....aaaa .....aaa ..aaAaaa
..aaaaaa ..aaaaaa ...aaaaa .aaaaaaa ..aaaaaa .aaaaaaa ....aaaa ....aaaa .aaaAaaa
..aaaaaa ..aaaaaa ...aaaaa .aaaaaaa ..aaaaaa .aaaaaaa ...aaaaa ...aaaaa .aaAaaaa
..aaaaaa ..aaaaaa ...aaaaa .aaaaaaa ..aaaaaa .aaaaaaa ..aaaaaa ...aaaaa .aaAaaaa
..aaaaaa ..aaaaaa ...aaaaa .aaaaaaa ..aaaaaa .aaaaaaa ..aaaaaa ...aaaaa .aaAaaaa
...aaaaa ...aaaaa ....aaaa ..aaaaaa ...aaaaa .aaaaaaa ..aaaaaa ...aaaaa .aaaAaaa
...aaaaa ...aaaaa ....aaaa ...aaaaa ....aaaa ..aaaaaa ..aaaaaa ....aaaa ..aaAaaa
....aa.. ....aaaa .....aaa ........ .....aaa ...aaaaa ...aaaaa .....aaa ...aaAaa
........ ........ ........ ........ .......a ........ ....aa.. ........ ........
""")
STALKS = sheet("""
none          stem          leaf          leaves        bent          star          long          crown
............. ............. .......lll... ............. .......ww.... ............. ....www...... ....l.l.l....
............. ......w...... ......wlll... ..lll..lll... ......ww..... .....lll..... ......ww..... .....lll.....
............. .....w....... .....wll..... ...lllwll.... .....w.ll.... ...lllllll... .......w..... ....lllll....
............. .....w....... .....w....... .....lw...... .....w.l..... ....l.w.l.... ......ww..... .....lll.....
""")
GLINTS = sheet("""
none   spot   pair   arc    low
...... ...... ...... ...... ......
...... .*.... .**... ..*... ......
...... ...... .*.... .*.... .*....
...... ...... ...... .*.... ..*...
""")

FOOD = sheet("""
carrot         banana         grapes         strawberry     watermelon     pineapple      pear           cherries
.........l.l.. ..........ww.. .......ww..... ......l....... .............. ...l..l..l.... .......w.ll... .......ww..ll.
........l.ll.l ..........wa.. ....ll.w...... ...l.lll.l.... .............. ....l.l.l.l... ......w.lll... .......wwwlll.
........ll.ll. ..........aaa. ...lllww...... ...llllllll... bcaaaaaaaaaacb ...llllll..... ......w.l..... ......w.w.ll..
.........llll. ..........aaa. .aaabbbaaabbb. ..allllllla... bcaapaaqaaracb .....lllll.... .....aaa...... ......w..w....
......aaa.lll. ..........aaaa .aaabbbaaabbb. .aaalllllaaa.. bcaaaaaaaaaacb ....llll...... .....aaaa..... .....w...w....
.....aaaaa.l.. .........aaaaa .aaabbbaaabbb. .aapaaqaaraa.. .bcaaraapaacb. ....aaAaaA.... .....aaaa..... .....w....w...
....aaaAaaa... .........aaaaA ..cccaaaccc... .aaaaaaaaaaa.. .bcaaaaaaaacb. ...aAaaAaaA... ....aaaaaa.... ....w.....w...
....aaaaaaa... ........aaaaaA ..cccaaaccc... .aqaaraapaaq.. ..bcapaaqacb.. ...aaAaaAaa... ...aaaaaaaa... ..aaaa....w...
...aAaaaaa.... .......aaaaaA. ..cccaaaccc... ..aaaaaaaaa... ..bbccaaccbb.. ...AaaAaaAa... ..aaaaaaaaaa.. .aaaaaa.bbbb..
..aaaaaAa..... .w...aaaaaaA.. ....bbbaaa.... ..aapaaqaaa... ...bbccccbb... ...aAaaAaaA... ..aaaaaaaaaa.. .aaaaaabbbbbb.
..aaAaaa...... .waaaaaaaaA... ....bbbaaa.... ...aaaaaaa.... .....bbbb..... ...aaAaaAaa... ..aaaaaaaaaa.. .aaaaaabbbbbb.
.aaaaaa....... ..aaaaaaAA.... ....bbbaaa.... ....araap..... .............. ...AaaAaaAa... ..aaaaaaaaaa.. .aaaaaabbbbbb.
.aaaa......... ....AAA....... .....ccc...... .....aaa...... .............. ....AaaAaa.... ...aaaaaaaa... ..aaaa.bbbbbb.
aaa........... .............. .....ccc...... ......a....... .............. .....aaAa..... ....aaa.aa.... ........bbbb..
""")
FOOD |= sheet("""
chili          aubergine      mushroom       corn           broccoli       toast          baguette       croissant
..........ll.. .........lll.. .....aaaa..... .......aaa.... ....aaaa...... .............. ..........aaa. ..............
.........ll... .........lll.. ...aapaaaaa... ......aAaAa... ..aaaaaaaa.... ..bbbbbbbbbb.. .........aabaa ..............
.......lll.... ......llllll.. ..aappaaqaaa.. .....aAaAaAa.. .aaAaaaaAaaa.. .bbaaaaaaaabb. ........aabaaa .....aaaa.....
......alllla.. .....alllalla. .aaapaaqqqaaa. .....AaAaAaA.. .aaaaAaaaaAaa. bbaaaaaaaaaabb ......aabaaaaa ...aaaAaaaa...
.....aaaaaaa.. ....aaaalaaaa. .aaaaaaaqaara. .....aAaAaAa.. aaAaaaaAaaaaaa baaaaaaaaaaaab .....aaabaaaa. ..aaaAaaAaaa..
.....aaaaaa... ....aaaaaaaaa. aaraaaaaaaarra .....AaAaAaAl. aaaaAaaaaaAaaa baaappppppaaab ....aabaaaaa.. .aaAaAaaAaAaa.
.....aaaaaa... ...aaaaaaaaaa. arraapaaaaaaaa ..l..aAaAaAal. aaAaaaaAaaaAaa bbaappppppaabb ...aabaaaaa... .aaAaaAaAaaAaa
....aaaaaa.... ..aaaaaaaaaa.. aaaappaaqaaaAA ..ll.AaAaAall. .aaaaAaaaAaaa. .baappppppaab. ..aabaaaaa.... aaAaaaAAAaaAaa
....aaaaa..... .aaaaaaaaaaa.. .AAAAAAAAAAAA. ..lllaAaAalll. ..aawaawaaa... .baaaaaaaaaab. .aabaaaaa..... aaAaa.....aAaa
...aaaaa...... .aaaaaaaaaa... ....wwwwww.... ...lllAaAalll. ....wwwww..... .baaaaaaaaaab. .abaaaaa...... aaaaa.....aaaa
..aaaaa....... .aaaaaaaaa.... ....wwwwww.... ...llllaallll. .....wwww..... .baaaaaaaaaab. .aaaaaa....... aaaa.......aaa
aaaaaa........ .aaaaaaaa..... ....wwwwww.... ....llllllll.. .....wwww..... .bbbbbbbbbbbb. ..aaa......... .aa........aa.
.aaa.......... ..aaaaaa...... ....wwwwww.... .....llllll... ....wwwww..... .............. .............. ..............
.............. ...aaa........ .....wwww..... ......lll..... .............. .............. .............. ..............
""")
FOOD |= sheet("""
cheese         drumstick      steak          hotdog         fish           sushi          riceball       friedegg
.............. .............. .............. .............. .............. .............. ......ww...... ..............
.............. ..........ww.. ...bbbbbb..... .............. .....aaaa..... .............. .....wwww..... ....wwww......
.........aaa.. ..........www. ..baaaaaabbb.. .............. a...aaaaaaa... .............. .....wwww..... ..wwwwwwww....
.......aaaaa.. .........wwww. .baaaaaaaaaab. ...ccccccccc.. aa.aaaaaaaaa.. ...aaaannaaa.. ....wwwwww.... .wwwwwwwwwww..
.....aaaaaaaa. ........aww... .baabaaaaaaaab ..ccccccccccc. aaaaaaaAaaaaa. .aaaAaannaAaa. ...wwwpqwww... .wwwyyyywwwww.
...aaaaaaaaaa. .....aaaaa.... baaabbaaabaaab .aaayaaayaaaa. .aaaaAaaAa*#aa .aaaaAannaaAaa ...wwwrtwww... wwwyyyyyywwww.
.aaaaaaaaaaaa. ...aaaaaaaa... baaaaaaabbaaab aaayayayayayaa .aaaAaaaAa##aa aaaaaaannaaaaa ..wwwwwwwwww.. wwwyyyyyywwwww
bbbbbbbbbbbbbb ..aaaaaaaaa... baaaawwaaaaaab aayaaayaaayaaa .aaaaAaaAaaaa. aawwwwwnnwwwaa ..wwwwwwwwww.. wwwyyyyyywwww.
bbbBBbbbbbbbbb .aaaaaaaaaa... .baawwwwaaaaab .aaaaaaaaaaaa. aaabbbbAbbbbb. .wwwwwwnnwwww. .wwwwwwwwwwww. .wwyyyyyywww..
bbbBBbbbbBBbbb .aaaaaaaaaa... .baaawwaaaaab. .cccccccccccc. aa.bbbbbbbbb.. .wwwwwwnnwwww. .wwwnnnnnnwww. .wwwyyyywwww..
bbbbbbbbbBBbbb .aaaaaaaaa.... ..bbaaaaaabb.. .ccccccccccc.. a...bbbbbbb... ..wwwwwnnwww.. wwwwnnnnnnwwww ..wwwwwwww....
bbbbbbBbbbbbbb .aaaaaaaaa.... ....bbbbbb.... ...ccccccccc.. .....bb....... .............. wwwwnnnnnnwwww ....wwww......
bbBbbbbbbbBbbb ..aaaaaaa..... .............. .............. .............. .............. .wwwnnnnnnwww. ..............
.............. ...aaaaa...... .............. .............. .............. .............. .............. ..............
""")
FOOD |= sheet("""
egg            slice          cake           cupcake        donut          cookie         candy          lollipop
.....aaaa..... ..........rr.. ...y...y...y.. ......rr...... ....cccccc.... ....aaaaaa.... .............. ....aaaaa.....
....aaaaaa.... .........rrrr. ...w...w...w.. .....rrrr..... ..cccpccccqc.. ..aaaaaapaaa.. .............. ...abbbbba....
...aaaaaaaa... ......ccccrr.. ...w...w...w.. .....crrc..... .ccrccccrcccc. .aapaaaaaaaaa. .............. ..abaaaaaba...
...aapaaqaa... ....cccccccc.. ..cccccccccc.. ...ccccccc.... .cccccttccccp. .aaaaaqaaaraa. b............b ..abaabbaba...
..bbbbbbbbbb.. ..cccccccccccc .cccpccqccrcc. ..cpccqcccc... ccpccc..ccrccc aaaaaaqqaaaaaa bbb..aaaa..bbb ..ababbaaba...
..aaaaaaaaaa.. cccccccccccccc .cccccccccccc. ..ccccccrcc... cccct....ccccc araaaaaaaapaaa .bbbaapaaabbb. ..abaaaaaba...
.aaraapaaqara. aaaaaaaaaaaaaa .acaaccacaaca. .cccqccccccc.. ccqcc....ccqcc arraaataaaaaaa bbbaappaaqabbb ..abbaaabba...
.aaaaaaaaaaaa. aapaaaaqaaaraa .aaaaaaaaaaaa. .ccccccpccccq. acccc....pccca aaaaaaaaaaqaaa .bbappaaqqab.. ...abbbbba....
.cccccccccccc. bbbbbbbbbbbbbb .bbbbbbbbbbbb. .cccccccccccc. aaccrc..cccraa aaaapaaaaaaaaa bbbapaaqqaabbb ....aaaaa.....
.aqaapaaraapa. aaaaaaaaaaaaaa .aaaaaaaaaaaa. ..aAaaAaaAaa.. aaaccccctccaaa aaaaaaaaraaata .bbbaaaqaabbb. ......w.......
.bbbbbbbbbbbb. aaaraaaapaaaqa .aaaaaaaaaaaa. ..aAaaAaaAaa.. .aacqccccccaa. .aqaaataaaaaa. bbb..aaaa..bbb ......w.......
..aaaaaaaaaa.. bbbbbbbbbbbbbb ssssssssssssss ...AaaAaaAa... .aaaacccpaaaa. .aaaaaaaaapaa. b............b ......w.......
...aaaaaaaa... .............. .ssssssssssss. ...AaaAaaAa... ..aaaaaaaaaa.. ..aaaaqaaaaa.. .............. ......w.......
....aaaaaa.... .............. .............. ....aaaaaa.... ....aaaaaa.... ....aaaaaa.... .............. ......w.......
""")
FOOD |= sheet("""
cone           popsicle       chocolate      pizza          burger         fries          bowl           mug
.....aaaa..... ....aaaaaa.... .............. .cccccccccccc. .............. ...a...a...... .............. ..............
....aaaaaa.... ...aaaaaaaa... .aaaaaaaaaaaa. cccccccccccccc ....bbbbbb.... ...a.a.a.a.a.. .............. ..ccccccc.....
...aaaapaaa... ...apaaaaqa... .apaAaqaAaraA. ccaaaaaaaaaacc ..bb*bbb*bbb.. .a.a.a.a.a.a.. .............. .ccccccccc....
...aqaaaara... ...aaaraaaa... .aaaAaaaAaaaA. .aappaaaqqaaa. .bbbbb*bbbbbb. .a.aaaaaaa.a.. ..aaaaaaaaaa.. .ccacccaac....
...bbaabbab... ...apaaqaaa... .AAAAAAAAAAAA. .aappaaaqqaaa. .bb*bbbbb*bbb. .aaaaaaaaaaa.. .aapaaqaaraaa. .baaaaaaabbbb.
..bbbbbbbbbb.. ...bbbbbbbb... .aqaAaraAapaA. ..aaaaaraaaa.. .bbbbbbbbbbbb. ..aaaaaaaaaa.. .aaaaraaapaaa. .baaaaaaab..bb
..bbbbbpbbbb.. ...bbbbbbbb... .aaaAaaaAaaaA. ..aaaaarraaa.. pppppppppppppp ..baaaaaaaab.. bbbbbbbbbbbbbb .baapaaqab...b
..bbqbbbbbrb.. ...bbbbbbbb... wwwwAwwwAwwwAw ...aappaaaa... .qqqqqqqqqqqq. ..bbbbbbbbbb.. bbbbbbbbbbbbbb .baaaaaaab...b
..bbbbbbbbbb.. ...cccccccc... wwwwwwwwwwwwww ...aappaaaa... .qqqqqqqqqqqq. ..bbppccqqbb.. .bccbppbqqbrr. .baqaaraab..bb
...kKkkKkkK... ...cccccccc... .wccwccwccwcw. ....aaaqaa.... rrrrrrrrrrrrrr ..bbpccccqbb.. .bbbbbbbbbbbb. .baaaaaaabbbb.
...kkKkkKkk... ...cccccccc... .wwwwwwwwwwww. ....aaaaaa.... .tttttttttttt. ..bbrrcctt.b.. ..bbbbbbbbbb.. .baaaaaaab....
....kkKkkK.... ......ww...... .wwwwwwwwwwww. .....aaaa..... .bbbbbbbbbbbb. ...bbbbbbbb... ...bbbbbbbb... .bbbbbbbbb....
.....kKkK..... ......ww...... .wwwwwwwwwwww. .....aaaa..... .bbbbbbbbbbbb. ...bbbbbbbb... ....BBBBBB.... ..bbbbbbb.....
......kK...... ......ww...... .............. ......aa...... ..bbbbbbbbbb.. ...bbbbbbbb... .............. ..............
""")
FOOD |= halves("""
flask    vial     jug      potion   jar
.....www .....www ........ .....www ........
.....www .....www .....www .....www ..bbbbbb
.....ggg .....ggg .....ggg ...ggggg ..bbbbbb
......gg .....ggg .....ggg ....gggg ...ggggg
......gg ....gggg ....gggg .....ggg ..gggggg
......gg ....pppp ...ggggg ....gggg .ggggggg
.....ggg ....pppp ..gggggg ...ggggg .gpppppp
....pppp ....aaaa ..pppppp ..gppppp .gpppppp
...ppppp ....aaab ..pppppp .gaaaaaa .gaabbbb
..aaaaaa ....aabb ..aaaabb .gaaaaaa .gaabccc
.aaaaaaa ....aaab ..aaabbb .gaaaaaa .gaabbbb
.aaaaaaa ....aaaa ..aaaabb ..gaaaaa .gaaaaaa
.aaaaaaa ....aaaa ..aaaaaa ...ggggg ..gggggg
..aaaaaa .....aaa ...aaaaa ........ ........
""")
FOOD |= sheet("""
teapot
..............
......ww......
......ww......
....bbbbbb....
...bbbbbbbb.bb
bbbbbpbbqbbbb.
b.bbbbbbbbbbb.
b.bbpbqbrbbb..
b.bbbbbbbbbb..
bbbbqbrbtbb...
..bbbbbbbbb...
...bbbbbbb....
....bbbbbb....
..............
""")

# the colours that each material may have; a letter stands for the colour of another material, further to the left
FOOD_COLOURS = choices("""
carrot     a=orange|gold|red|purple  l=green|lime|teal
banana     a=gold|lime|orange|red  w=brown|charcoal|green
grapes     a=purple|lime|navy|red|green|blue  b=a  c=a  w=brown|tan|green  l=green|lime
strawberry a=red|pink|white|orange  l=green|lime  p=gold|a|white  q=gold|a|white  r=gold|a|white
watermelon a=red|gold|pink|orange  b=green|lime|teal  c=white|lime|a  p=charcoal|a|brown  q=charcoal|a|brown
           r=charcoal|a|brown
pineapple  a=gold|orange|tan|lime  l=green|lime|teal
pear       a=lime|gold|green|red|orange  w=brown|charcoal  l=green|lime|teal
cherries   a=red|purple|pink|gold|navy  b=a|red|purple|gold  w=brown|green|lime  l=green|lime|teal
chili      a=red|green|orange|gold|lime|purple  l=green|lime|teal
aubergine  a=purple|navy|white|charcoal|pink  l=green|lime|teal
mushroom   a=red|brown|tan|purple|blue|orange|white|grey  w=bone|white|tan  p=a|white|gold|tan  q=a|white|gold|tan
           r=a|white|gold|tan
corn       a=gold|orange|red|white|purple  l=green|lime|teal
broccoli   a=green|lime|white|purple|teal  w=lime|bone|green
toast      a=bone|tan|brown  b=brown|tan|brunette  p=a|gold|red|purple|orange|lime|pink
baguette   a=tan|brown|orange|gold  b=bone|gold|brunette
croissant  a=tan|brown|orange|gold
cheese     a=gold|bone|orange|white  b=gold|orange|red|bone
drumstick  a=brown|orange|tan|red|brunette  w=bone|white
steak      a=red|pink|brown|brunette  b=bone|white|tan|pink  w=white|bone|a
hotdog     c=tan|brown|orange|bone  a=red|brown|orange|brunette  y=gold|red|lime|white|a
fish       a=blue|teal|orange|grey|red|gold|green|purple|steel|pink  b=white|a|bone|gold|pink|steel
sushi      a=orange|red|pink|gold|white|green  w=white|bone|tan  n=green|charcoal|navy|brunette
riceball   w=white|bone|tan|pink  n=green|charcoal|navy|brunette  p=w|red|charcoal|orange|lime  q=p|w  r=p|w  t=p|w
friedegg   w=white|bone  y=gold|orange
egg        a=white|bone|tan|pink|teal|gold|blue|lime  b=a|red|blue|purple|gold|lime  c=b|a|pink|teal|orange
           p=a|red|gold|green  q=a|blue|pink|gold  r=a|p|q
slice      a=bone|tan|brown|gold|pink|brunette  b=white|red|pink|brunette|purple|gold
           c=white|pink|brunette|lime|teal|gold|red  p=a|red|brunette|purple  q=a|p  r=red|purple|blue|c
cake       y=gold|orange  w=white|pink|blue|lime  c=white|pink|brunette|lime|teal|purple  a=bone|tan|brown|pink
           b=white|red|gold|purple  s=white|steel|gold|blue  p=c|red|gold  q=c|red|blue  r=c|p|q
cupcake    c=white|pink|brunette|lime|teal|purple|gold|blue  a=red|blue|tan|brown|purple|white|green
           r=red|purple|blue|c|gold  p=c|red|gold|blue  q=c|p|lime|pink
donut      c=pink|brunette|white|blue|lime|purple|orange|teal  a=tan|brown|gold|brunette  p=c|white|red|gold
           q=c|blue|gold|lime  r=c|p|q  t=c|p|q
cookie     a=tan|brown|gold|brunette|bone  p=brunette|a|red|white  q=brunette|a|p|green  r=brunette|a|p|blue
           t=brunette|a|p|q
candy      a=red|pink|blue|lime|purple|orange|teal  b=a|white|gold|pink  p=white|a|gold|red  q=p|a|blue
lollipop   a=red|pink|blue|lime|purple|orange|teal|gold  b=white|gold|pink|lime|red|blue|purple  w=white|tan|bone
cone       a=pink|brunette|white|lime|gold|purple|blue|red  b=pink|brunette|bone|teal|gold|purple|orange|a
           k=tan|brown|gold  p=b|red|white  q=b|p|gold  r=b|p
popsicle   a=red|pink|orange|lime|blue|purple|brunette  b=a|white|gold|pink|teal  c=a|b|blue|lime  w=tan|bone
           p=a|white|gold  q=p|a  r=p|a
chocolate  a=brunette|brown|bone|pink|charcoal  w=red|blue|gold|purple|green|steel  c=gold|white|w|pink  p=a|bone|red
           q=a|p  r=a|p
pizza      c=tan|brown|orange  a=gold|orange|bone|red  p=red|green|brown|a|pink  q=red|charcoal|lime|a|white
           r=green|purple|p|q|a
burger     b=tan|brown|orange|gold  p=lime|green|gold|red  q=brown|brunette|tan|red  r=gold|red|white|q
           t=lime|red|green|brown|purple
fries      a=gold|tan|orange  b=red|blue|white|green|purple  c=gold|white|b|orange  p=b|c|white  q=b|c|p  r=b|p  t=b|q
bowl       a=orange|red|lime|gold|brown|bone|purple  b=blue|white|red|brown|teal|grey|navy  c=b|white|gold
           p=a|green|red|white  q=a|p|gold  r=a|p|brown
mug        a=gold|brown|brunette|red|lime|blue|purple  b=tan|steel|white|brown|blue|red  c=white|bone|gold|pink|a  p=a|b
           q=a|p|c  r=a|p
flask      a=red|blue|lime|purple|orange|teal|pink|gold  p=a|white|a  g=white|steel  w=brown|tan|gold|red
vial       a=red|blue|lime|purple|orange|teal|pink|gold  p=a|white|steel  g=white|steel  w=brown|tan|gold|red
           b=a|white|bone|charcoal
jug        a=red|blue|lime|purple|orange|green|brown|gold  g=green|white|brown|steel  p=a|g|white  w=brown|tan|gold|red
           b=a|white|bone|gold
potion     a=red|blue|lime|purple|orange|teal|pink|gold  p=a|white|a  g=white|steel|blue  w=brown|tan|gold|red
jar        a=gold|red|purple|orange|lime|pink|brown  p=a|white  g=white|steel  b=white|red|gold|blue|green|brown
           c=red|blue|green|brown|a
teapot     b=white|blue|red|green|brown|teal|pink  w=gold|brown|b  p=b|red|gold|blue  q=b|p|green  r=b|p|q  t=b|p|q
""")

# People, seen from the side, in the same materials; they walk to the right. Heads are seven pixels wide, and then a nose.
SIDE_HEADS = sheet("""
plain    big      chin     sharp
.sssss.. .sssss.. .sssss.. .sssss..
sssssss. sssssss. sssssss. sssssss.
sssssss. sssssss. sssssss. sssssss.
sssss#s. sssss#s. ssssss#. ssss#ss.
sssss#ss sssss#ss ssssssss ssss#sss
.ssssss. .sssssss .sssssss .sssss..
........ ........ ........ ........
""")

# hair and hats start two rows above the head and two columns to the left of it
SIDE_HAIR = sheet("""
bald        crop        long        tail        spiky       mohawk      bun         afro        bob         braid
........... ........... ........... ........... ...h.h.h... .....hhh... ........... ....hhhh... ........... ...........
........... ...hhhhh... ...hhhhh... ...hhhhh... ..hhhhhhh.. ...hhhhhh.. .hh.hhhh... ..hhhhhhh.. ...hhhhh... ...hhhhh...
........... ..hhhhhhh.. ..hhhhhhh.. ..hhhhhhhh. .hhhhhhhhh. ...hhh..... hhhhhhhhh.. .hhhhhhhhh. ..hhhhhhh.. ..hhhhhhh..
........... ..hhhhHhH.. ..hhhhhHh.. .hhhhhHH... ..hhhhHhH.. ..hh....... .hhhhhhhh.. .hhhhhhhhh. .hhhhhhhhh. ..hhhhhHH..
........... ..hhhH..... ..hhhH..... hhhhhH..... ..hhhH..... ........... ..hhH...... .hhhhH..... .hhhhH..... ..hhhH.....
........... ..hhH...... ..hhhH..... hhhhH...... ..hhH...... ........... ..hH....... .hhhhH..... .hhhhH..... .hhhH......
........... ..hH....... .hhhhH..... hh.H....... ..hH....... ........... ........... ..hhH...... .hhhhH..... .hhH.......
........... ........... .hhhH...... hh......... ........... ........... ........... ........... ........... hhH........
........... ........... .hhH....... .h......... ........... ........... ........... ........... ........... hH.........
""")
# from the fifth row of the head
SIDE_BEARDS = sheet("""
shaven   full     goatee   long
........ ..hh.... ........ ..hh....
........ ..hhhhh. ........ ..hhhhh.
........ ...hhhhh ....hhh. ...hhhhh
........ ........ .....hh. ...hhhh.
........ ........ ........ ....hhh.
""")

SIDE_HATS = sheet("""
wizard      helm        cap         tophat      straw       hood
....aaa.... ........... ........... ...aaaaa... ........... ...aaaa....
...aaaaa... ...mmmmm... ...aaaaa... ...aaaaa... ...aaaaa... ..aaaaaa...
..aaaaaaa.. ..mmmmmmm.. ..aaaaaaa.. ...aaaaa... ..aaaaaaa.. .aaaaaaaa..
.bbbbbbbbb. ..mmmmmmmm. ..aaaaaaa.. ...bbbbb... ..bbbbbbb.. .aaaaaaA...
aaaaaaaaaaa .bbbbbbbb.. ..bbbbbbbbb .aaaaaaaaa. aaaaaaaaaaa .aaaaA.....
........... .mmmm...... ........... ........... ........... .aaaA......
........... ..mm....... ........... ........... ........... .aaaA......
........... ........... ........... ........... ........... .aaaaA.....
........... ........... ........... ........... ........... aaaaaaa....
""")
SIDE_HATS |= sheet("""
visor       crown       bandana     feather     horned
.bbb....... ........... ........... .bb........ ......w....
bbbmmmmm... ..m.m.m.m.. ...aaaaa... .bbbaaaa... ...mmmww...
bbmmmmmmm.. ..mmmmmmm.. ..aaaaaaa.. ..bbaaaaa.. ..mmmmwwm..
.bmmmmmmm.. ..mMmMmMm.. .bbbbbbbb.. ..aaaaaaa.. ..mmmmmmm..
..mmmmM###. ........... bb......... .aaaaaaaaaa .bbbbbbbbb.
..mmmmmmmm. ........... b.......... ........... .mmm.......
..mmmmmMMM. ........... b.......... ........... ..mm.......
...mmmmmm.. ........... ........... ........... ...........
........... ........... ........... ........... ...........
""")

SIDE_TORSOS = sheet("""
tunic      coat       plate      vest       dress      striped    sash       apron      mail       bare
..aaaa.... ..aaab.... .mmmmm.... ..sabb.... ..aaaa.... ..aaaa.... ..aaab.... ..aabb.... ..mmmm.... ..ssss....
.aaaaaa... .aaaaab... .mmmmMm... .ssaabb... .aaaaaa... .bbbbbb... .aaaabb... .aaabbb... .mMmMmM... .ssssss...
.aa#aaass. .aa#aaass. .aa#mmmss. .as#sssss. .aa#sssss. .aa#aaass. .aa#aaass. .as#sssss. .mM#mMmss. .ss#sssss.
.bbb####.. .aaaa###.. .mMmM###.. .bbb####.. .aaaa###.. .bbb####.. .bbaa###.. .abbb###.. .bbb####.. .bbb####..
""")

# the last seven rows
SIDE_LEGS = sheet("""
stride     pass       run        climb      robe       skirt      march      sneak
..llll.... ..llll.... ..llll.... ..llll.... .aaaaa.... .aaaaa.... ..llll.... ..llll....
..llll.... ..llll.... ..llll.... ..llll.... .aaaaa.... .aaaaa.... ..llll.... ..llll....
..llll.... ..llll.... ..llll.... ..llll.... .aaaaaa... .aaaaaa... ..llll.... ..llll....
..llll.... ..llll.... .lllll.... ..lllll... .aaaaaa... .aaaaaa... ..lllll... ..llll....
.llllll... ..lLll.... .lLllll... ..lllllll. .aaaaaaa.. .aAaaaaa.. ..lLllll.. ..lLlll...
.lLL.lll.. ..lLll.... fLL..ll... ..ll..fff. aaaaaaaa.. ..LL.ll... ..lL..fff. .lL..ll...
.FF..fff.. ..FFfff... f....fff.. ..fff..... bbbbbbbb.. ..FF.fff.. ..FFf..... FF...fff..
""")

# on the back, from the shoulders
BACKS = sheet("""
none     cape     pack     quiver   wings    scarf    shell
........ ..bbbb.. ........ .g.g.... ........ ........ ........
........ ..bbbb.. .wwww... .g.g.... bb...... bbbbbb.. ..bbb...
........ .bbbbb.. wwwwww.. .www.... bbbb.... .bbbb... .bbbBb..
........ .bbbbb.. wwWwww.. .www.... .bbbbb.. ........ .bBbbb..
........ bbbbbb.. wwwwww.. .www.... ..bbbb.. ........ .bbbBb..
........ bbbbb... .wwww... ........ ...bb... ........ ..bbb...
........ .bb..... ........ ........ ........ ........ ........
""")

# held in front; the hand is to the left of the eighth row
SIDE_WEAPONS = sheet("""
sword spear staff axe  bow  torch wand shield lantern rod  banner club book flower dagger scythe horn
.m..  .m..  ggg.  .... .... ....  .... ....   ....    ...w wbbb   .... .... ....   ....   ..mm   ....
.m..  mmm.  ggg.  wmm. w... .y..  .... ....   ....    ..w* wbbb   .ww. .... .bb.   ....   w.mm   ....
.m..  .m..  ggg.  wmmm .w.. .yy.  .... .bbb   ....    .w.* wbbb   wwww .... byyb   ....   w..m   ....
.m..  .w..  .w..  wmmm *.w. yyyy  .gg. .bab   ....    .w.* wbb.   wwww .... byyb   .m..   w..m   ..gg
.m..  .w..  .w..  wmm. *.w. .yy.  .gg. .bab   .www    w..* w...   wwww .... .bb.   .m..   w...   .ggg
.m..  .w..  .w..  w... *.w. .w..  .w.. .bab   .mmm    w..* w...   .ww. aaa. .l..   .m..   w...   ggg.
mmm.  .w..  .w..  w... *.w. .w..  .w.. .bab   .myy    w... w...   .w.. a*a. .ll.   ggg.   w...   gg..
.w..  .w..  .w..  w... wwww .w..  .w.. .bab   wmyy    w... w...   .w.. a*a. .l..   .w..   w...   g...
.w..  .w..  .w..  w... *.w. .w..  .... .bab   .mmm    .... w...   .w.. aaa. .l..   ....   w...   ....
....  .w..  .w..  w... .w.. ....  .... .bbb   ....    .... w...   .... .... ....   ....   w...   ....
....  .w..  .w..  w... w... ....  .... ....   ....    .... w...   .... .... ....   ....   w...   ....
""")

# Beasts, in two colours a and b; eyes e, hooves c, horns and teeth w, tongue r, beak y. These have four legs:
TRUNKS = sheet("""
lean       stout      woolly     hollow     humped     armour
.aaaaaaaa. aaaaaaaaaa .bb.bbb.b. aa....aaaa ...aa..aa. .bb.bb.bb.
aaaaaaaaaa aaaaaaaaaa bbbbbbbbbb aaaaaaaaaa .aaaaaaaaa bbbbbbbbbb
aaaaaaaaaa aaaaaaaaaa bbbBbbbBbb aaaaaaaaaa aaaaaaaaaa abbbbbbbba
aaaaaaaaaa aaaaaaaaaa bBbbbBbbbb aaaaaaaaaa aaaaaaaaaa aabbbbbbaa
aa.aaaaaaa aaaaaaaaaa bbbbBbbbbb .aaaaaaaaa aaaaaaaaaa aaaaaaaaaa
.......... .aaaaaaaa. .bbbbbbbb. .......... .......... ..........
""")
BEAST_LEGS = sheet("""
stand      walk       trot       gallop     stubs      strut
.aa....aa. .aaA..Aaa. .Aaa..aaA. aaa....aaa .aaa..aaa. .aa....aaa
.aa....aa. .aaA..Aaa. .Aaa..aaA. aaa....aaa .aaa..aaa. .aa....aaa
.aa....aa. aaAA..AAaa AA.aa.aa.A aa......aa .aaa..aaa. .aa....a.a
.cc....cc. cc.C..C.cc C..cc.cc.C c........c .ccc..ccc. .cc....c..
""")
BEAST_HEADS = sheet("""
cat     dog     horse   pig     cow     sheep   fox     deer    elephant
..a...a ....... ..b.a.. ....... .w...w. ....... ..a..a. .w.w.w. .......
..aa.aa ..aaa.. ..baaa. ..a..a. .wwaww. .bbbb.. ..aa.aa ..www.. ..aaaa.
.aaaaaa .bbaaa. .bbaeaa ..aaaaa ..aaaaa bbbbbb. .aaaaaa ...aaaa .AAaaaa
.aaaeaa .bbaeaa .bbaaaa .aaaeaa .aaaeaa bbbaaea .aaaeaa ..aaeaa AAaaeaa
.aaaaab .bbaaa# .baaAba .aaaarr .aaaaaa bbaaaaa .aaaabb .aaaaaa AAaaaaa
..aaabb ..aaabb .baaa.. ..aaarr ..aaabb .baaaa# ..abbb# .aaa.aa aaaaaaa
..aaaa. ..aaa.. bbaaa.. ..aaa.. ..aab#b ..aaa.. ..aa... .aa.... .aa..aa
....... .aaa... baaaa.. ....... ..aaa.. ....... ....... .aa.... .....aa
""")
BEAST_HEADS |= sheet("""
lion    dragon  rhino   bear    mouse   camel   goat    rabbit
..bbb.. w..w... ....... ..a..a. ....... ....... .w..... .aa.aa.
.bbbbb. .ww.... ......w ..aaaaa .aaa... ..aa... ..ww... .aa.aa.
bbbaaab .waaaa. ..aaaww .aaaaaa .aaaaa. .aaaaa. ..waaa. .aa.aa.
bbbaeaa .aaeaaa .aaaeaa .aaaeaa .aaaeaa .aaeaaa .aaaeaa .aaaaa.
bbaaaa# .aaaaaa .aaaaaa .aaaabb ..aaaar .aaaaaa .aaaaaa .aaeaaa
bbbabb. .aawaw. ..aaaaa .aaaab# ..aaa.. .aa.... ..aaaww .aaaaar
.bbbb.. .aaa... ..aaa.. ..aaaa. ....... .aa.... ..aaa.w ..aaaa.
..bbb.. aaaa... ....... ....... ....... .aa.... .aaa... ..aaa..
""")
TAILS = sheet("""
none  up    curl  bushy thin  horse stub  lizard
..... aa... .aa.. ..... ..... ..... ..... .....
..... aa... a..a. bb... ..... ..... ..... .....
..... .a... a.... bbb.. a.... .bb.. ..... a....
..... .aa.. aa... bbbb. aa... bbbb. .bb.. aa...
..... ..aaa .aaaa .bbaa .aaaa bbbbb .bbbb .aa..
..... ..... ..... ..... ..... bb.b. .bb.. .aaaa
..... ..... ..... ..... ..... bb... ..... ..aaa
..... ..... ..... ..... ..... .b... ..... .....
""")

# and these are whole
BEASTS = sheet("""
chicken        duck           parrot         turtle         snail          snake          rex            ostrich
.........rr... .............. ........aaaa.. .............. ..........w.w. ........aaaa.. .......aaaaaa. ........aaaa..
........rrrr.. ........aaaa.. .......aaaaaa. .............. ..........w.w. .......aaaaaa. ......aaaaeaaa .......aaeayy.
.........aaa.. .......aaaaaa. .......aaeawyy .............. ...bbbb...aaa. .......aaaeaa. ......aaaaaaaa .......aaaaa..
........aaea.. .......aaaeaa. .......aaaayyy ....bbbbb..... ..bbbbbb..aaaa .......aaaaaa. ......aaaw.w.. ........aa....
bb......aaaayy .......aaaayyy ......aaaaaay. ...bbBbbBb.... .bbbBBbbb.aea. ......aaaarrr. ......aaaaaa.. ........aa....
bbb....aaaayy. bb.....aaayyy. .....bbbaaaa.. ..bBbbBbbBb.aa .bbBbbBbb.aaa. .....aaaaa..r. aa...aaaaa.... .......aa.....
bbba..aaaaarr. bbb...aaaa.... ....bbbbaaaa.. ..bbBbbBbbbaaa .bbBbBBbb.aaa. ....aaaa...... aa..aaaaaaaa.. bbb.aaaa......
.bbaaaaaaaar.. bbbaaaaaaaa... ...bbbbbaaaa.. .bbbbBbbBbbaea .bbBbbbbb.aaa. ...aaaa....... aaaaaaaabaaa.. bbbaaaaaa.....
.aaabbbaaaa... .bbaabbbaaaa.. ..bbbbbbaaa... .bbBbbBbbBbaaa .bbbBBBbbaaaa. ...aaaaaaa.... .aaaaaaabb.... .bbaaaaaaa....
.aaabbbbaaa... .aaabbbbbaaa.. .bbbbb.aaaa... .wwwwwwwwww.aa ..bbbbbbaaaaa. ....aaaaaaaa.. ..aaaaaabb.... ..baaaaaaa....
..aaabbaaa.... .aaaabbbaaaa.. .bbb...wwwww.. .aaawwwwaaa... ..aaaaaaaaaa.. ......aaaaaaa. ...aaaaaab.... ...aaaaa......
...aaaaaa..... ..aaaaaaaaa... bbb......y.y.. ..aa....aa.... .aaaaaaaaaa... a.......aaaaa. ...aaa.aaa.... ....y..y......
....y..y...... ....aaaaa..... ..........y... .aaa...aaa.... aaaaaaaaaa.... aaaaaaaaaaaaa. ...aa...aa.... ...yy..y......
...yy.yy...... .............. .............. .............. .............. .aaaaaaaaaaa.. ...aaa..aaa... ....yy.yy.....
""")
BEASTS |= sheet("""
crocodile      whale          squirrel       bee            wyvern         ant            frog           kangaroo
.............. .............. ..bbb......... .............. bb........aaa. .............. .............. .........a.a..
.............. .......w.w.... .bbbbb..a.a... .....www...... bbbb...w.aaaaa .............. .........aaa.. .........aaa..
.............. ........w..... bbbbbb..aaaa.. ....wwwww..... .bbbb..wwaaeaa ..........#.#. ........aaeaa. .........aaaa.
.............. ........w..... bbb.bb.aaaaaa. ....wwwwww.... .bbbbb..aaaaaa ...........#.. ......aaaaaaaa ........aaeaaa
.......ww..... .a.a....w..... bb..bb.aaaeaa. .....wwwwwaaa. ..bbbbb.aaawaw .........aaaa. ....aaaaaaaaaa ........aaaaa#
......aaa..... .aaa..aaaaaa.. .b..bb.aaaaaa# ...bbaawwaaaaa ..bbbbbbaaa... ..aaa...aaeaaa .aaaaaaaa####. .......aaaa...
..b.b.aaeaaaaa ..a..aaaaaaaa. ....bbb.aaaa.. ..abbaabbaaeaa ...bb.aaaaa... .aaaaa.aaaaaa. .aaaaaaaaaaa.. .......aaaa...
.bbbbbaaaaaaa# ..aaaaaaaaaaaa ....bbaaaaaa.. .aabbaabbaaaaa ..aaaaaaaaaa.. aaaaaaaaaaaa.. aaaAaaabbbbb.. .....aaaaaaa..
aaaaaaaaawwww. ..aaaaaaaeaaaa ....baaaaaa#b. #aabbaabbaaaaa .aaaaaabbbaa.. aaaaabaaa..... aaaaaAabbbbb.. ....aaaaaaa...
aaaaaaaaaa.... ...aaaaaaaaaaa ....bbaabbaabb .aabbaabbaaaa. aaa..aabbba... .aaab#..#..... aaaaaAbbbbb... a..aaaaaa.....
aaaaaaaaaaaaa. ...AbbbbbbbA.. .....aaabba... ..abbaabbaaa.. aa...aaaaaa... ..#..#..#..... .aaaaaaaa..... aaaaaaaaab....
.bbbbbbbb..... ....bbbbbbb... .....aaaba.... ...bbaabba.... .....aa..aa... .#...#...#.... ..aaaa.aaa.... .aaa.aaaab....
.aa..aaa...... .............. ....aaaaaaa... ....#..#..#... ....www.www... .............. .aaaaa..aaa... .....aaaa.....
aaa.aaa....... .............. ....aaa.aaa... .............. .............. .............. .............. .....aaaaaa...
""")

# Spells, which glow from inside. These stand upright,
RITES = sheet("""
flame          crystal        star           tornado        heart          eye            drop
.......a...... ......aa...... ......aa...... .aaaaaaaaaaaa. .............. .............. ......aa......
......aa...... .....aabb..... ......aa...... aaaaaaaaaaaaaa ..aaa....aaa.. ....bbbbbb.... ......aa......
......aaa..... .....aabb..... .....aaaa..... .bbbbbbbbbbbb. .aaaaa..aaaaa. ..bbbaaaabbb.. .....aaaa.....
..a..aaaa..... ....aaabbb.... .....aaaa..... ...aaaaaaaaaa. aaaaaaaaaaaaaa .bbaaaaaaaabb. ....aaaaaa....
..aa.aaaaa.a.. .a..aaabbb..b. aaaaaaaaaaaaaa ..aaaaaaaaa... aaaaaaaaaaaaaa bbaaaccccaaabb ...aaaaaaaa...
..aaaaaaaa.aa. aab.aaabbb.abb .aaaaaaaaaaaa. ...bbbbbbb.... aaaaaaaaaaaaaa baaacc##ccaaab ..aaaaaaaaaa..
.aaaaaaaaaaaa. aab.aaabbb.abb ...aaaaaaaa... ....aaaaaaa... aaaaaaaaaaaaaa baaac####caaab ..aaaaaaaaaa..
.aaaaaaaaaaaa. aaabaaabbbaabb ....aaaaaa.... .....aaaaaa... .aaaaaaaaaaaa. baaacc##ccaaab .aaaaaaaaaaaa.
aaaaaaaaaaaaaa .aabaaabbbaab. ...aaaaaaaa... ....bbbbb..... ..aaaaaaaaaa.. bbaaaccccaaabb .aa*aaaaaaaaa.
aaaaaaaaaaaaaa .aabaaabbbaab. ...aaaaaaaa... ....aaaa...... ...aaaaaaaa... .bbaaaaaaaabb. .aa**aaaaaaaa.
aaaaaaaaaaaaaa ..aaaaabbbab.. ..aaaa..aaaa.. .....aaaa..... ....aaaaaa.... ..bbbaaaabbb.. .aaa**aaaaaaa.
.aaaaaaaaaaaa. ...aaaabbbb... ..aaa....aaa.. ......bbb..... .....aaaa..... ....bbbbbb.... ..aaaaaaaaaa..
..aaaaaaaaaa.. ....aaabbb.... .aaa......aaa. .....aa....... ......aa...... .............. ...aaaaaaaa...
....aaaaaa.... .....aabb..... .aa........aa. ......a....... .............. .............. .....aaaa.....
""")
RITES |= sheet("""
wave           moon           skull          explosion      cloud          aegis          wings
......aaaa.... ....aaaaaa.... ....aaaaaa.... ..a....a....a. .............. ..bbbbbbbbbb.. ..............
....aaaaaaaa.. ..aaaaaaa..... ..aaaaaaaaaa.. ...a..aaa..a.. ....aaaa...... .bbaaaaaaaabb. aa..........aa
...aaaaaaaaaa. .aaaaaa....... .aaaaaaaaaaaa. aa..aaaaaa.aa. ..aaaaaaaaa... .baaaaccaaaab. aaa........aaa
..aaaaaaabbbaa .aaaaa........ .aaaaaaaaaaaa. .aaaaabbbaaaa. .aaaaaaaaaaaa. .baaaaccaaaab. aaaa......aaaa
.aaaaaaabb..ba aaaaa......... aaaaaaaaaaaaaa ..aabbbbbbbaa. aaaaaaaaaaaaaa .baaccccccaab. aaaaa.bb.aaaaa
.aaaaaabb..... aaaaa....b.... aaa##aaaa##aaa .aabbbbccbbaaa aaaaaaaaaaaaaa .baaccccccaab. .aaaabbbbaaaa.
aaaaaaab...... aaaaa...bbb... aa####aa####aa aaabbccccbbba. .aaaaaaaaaaaa. .baaaaccaaaab. aaaaabbbbaaaaa
aaaaaaabb..... aaaaa....b.... aa####aa####aa .aabbbccbbbaa. ....bbb..bbb.. .baaaaccaaaab. .aaaabbbbaaaa.
aaaaaaaabb.... aaaaaa........ aaa##aaaa##aaa ..aaabbbbbaaa. ...bbb..bbb... .bbaaaccaaabb. ..aaa.bb.aaa..
aaaaaaaaabb... .aaaaa.......a .aaaa##aaaaaa. .aaaaabbbaaaa. ..bbbbb..bbb.. ..baaaaaaaab.. .aaaa.bb.aaaa.
aaaaaaaaaaabbb .aaaaaaa...aaa ..aaaaaaaaaa.. aa.aaaaaaaa.aa ....bb..bb.... ..bbaaaaaabb.. ..aa..bb..aa..
aaaaaaaaaaaaaa ..aaaaaaaaaaa. ...a#aa#aa#... ...aa.aaa.aa.. ...bb...b..... ...bbaaaabb... ......bb......
bbbbbbbbbbbbbb ...aaaaaaaaa.. ...a#aa#aa#... ..a....aa...a. ...b.......... ....bbaabb.... ......bb......
.bbbbbbbbbbbb. .....aaaa..... ....aaaaaa.... .............. .............. ......bb...... ..............
""")
RITES |= sheet("""
hourglass      snow           bolt           zigzag
.bbbbbbbbbbbb. ......aa...... .......aaaaa.. ......aaaaaa..
..cccccccccc.. ..a...aa...a.. ......aaaaa... .....aaaaaa...
..caaaaaaaac.. ..aa.aaaa.aa.. .....aaaaa.... ....aaaaaa....
..ccaaaaaacc.. ...aa.aa.aa... ....aaaaa..... ....aaaaa.....
...ccaaaacc... .a..aaaaaa..a. ...aaaaa...... ...aaaaaaaa...
....ccaacc.... .aa..aaaa..aa. ..aaaaaaaaa... ...aaaaaaa....
.....caac..... aaaaaabbaaaaaa ..aaaaaaaaa... .....aaaa.....
.....ccac..... aaaaaabbaaaaaa ......aaaa.... .....aaaaaa...
....cccacc.... .aa..aaaa..aa. .....aaaa..... ....aaaaaa....
...ccccaccc... .a..aaaaaa..a. .....aaa...... .......aa.....
..ccccaaaccc.. ...aa.aa.aa... ....aaa....... ......aa......
..cccaaaaacc.. ..aa.aaaa.aa.. ....aa........ .....aa.......
..caaaaaaaac.. ..a...aa...a.. ...aa......... .....a........
.bbbbbbbbbbbb. ......aa...... ...a.......... ..............
""")

# and these fly, in any direction
MISSILES = sheet("""
fireball       comet          crescent       missile        blade          claws          arrow
a............. .............. ......aaa..... .............. ............aa aa...aa...aa.. ..............
.aa..a........ ..aa....aaa... ........aaa... .b............ ...........aaa aaa..aaa..aaa. ..............
..aa.aa....... ....aaaaaaaa.. .........aaaa. .bb....a...... ..........aaa. .aaa..aaa..aaa ..............
.a.aaaaaa..... aaa..aaaaaaaa. .........aaaa. ..bbb..aaa.... .........aaa.. .aaaa.aaaa.aaa .........aa...
..aaaaaaaaa... ..aaaaaaaaaaaa ..........aaaa bb.bbbbaaaaa.. ........aaa... ..aaa..aaa..aa b..b......aa..
aa.aaaaaaaaa.. .aaaaaaaaaaaaa ..........aaaa .bbbbbbbaaaaa. .......aaa.... ..aaaa.aaaa.aa .bb.bb....aaa.
.aaaaaaaaaaaa. aa.aaaaaaaaaaa ..........aaaa b.bbbbbbaaaaaa ......aaa..... ..aaaa.aaaa.aa ..cccccccccaaa
..aaaaaaaaaaaa ..aaaaaaaaaaaa ..........aaaa .bbbbbbbaaaaa. .b...aaa...... ...aaa..aaa..a ..cccccccccaaa
.a.aaaaaaaaaaa aaaaaaaaaaaaaa ..........aaaa bb.bbbbaaaaa.. .bb.aaa....... ...aaa..aaa..a .bb.bb....aaa.
..aaaaaaaaaaaa ...aaaaaaaaaa. .........aaaa. ..bbb..aaa.... ..bbaa........ ....aa...aa..a b..b......aa..
...aaaaaaaaaaa .aa..aaaaaaa.. .........aaaa. .bb....a...... ...bbb........ ....aa...aa..a .........aa...
....aaaaaaaaaa ...aa..aaaa... ........aaa... .b............ ..cc.bb....... .....a....a... ..............
.....aaaaaaaa. .............. ......aaa..... .............. .cc...bb...... .....a....a... ..............
.......aaaaa.. .............. .............. .............. cc............ .............. ..............
""")
MISSILES |= sheet("""
icicle         spiral         leafstorm      leaf
.............. .....aaaaa.... ....aaa....... .........aaaaa
aa............ ...aaaaaaaaa.. ..aaaaa....bb. ......aaaaaaba
abaa.......... ..aaa.....aaa. .aaaaaa..bbbb. .....aaaaaabaa
.abbaa........ .aa........aaa .aaaaa..bbbbb. ....aaaaaabaa.
.aabbbaa...... aaa...aaa...aa .aaa...bbbbb.. ...aaaaaabaaa.
..aabbbbaa.... aa...aaaaa..aa .a....bbbbb... ...aaaaabaaaa.
..aaabbbbba... aa..aaa.aa..aa ......b....... ..aaaaabaaaa..
...aaabbbbbaa. aa..aa......aa ..a........... ..aaaabaaaa...
...aaaabbbbbaa aaa.aaa...aaa. .aaaa...bb.... ..aaabaaaa....
....aaaabbbbba .aa..aaaaaaaa. aaaaaa.bbbbb.. ..aabaaaa.....
.....aaaaabbba .aaa...aaaa... aaaaaa.bbbbbb. ...baaa.......
......aaaaaaa. ..aaaa......aa .aaaa..bbbbbb. ..b...........
........aaaa.. ...aaaaaaaaaa. ........bbbbb. .b............
.............. .....aaaaaa... .........bbb.. b.............
""")
