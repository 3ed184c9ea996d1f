"""Scenes as a set to train on, and sprites that others drew."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from unnoise.core.errors import InputError
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.image.scenes.emoji import PictureSprites, read_sprites
from unnoise.modalities.image.scenes.grammar import parse
from unnoise.modalities.image.scenes.requests import LEARNT
from unnoise.modalities.image.scenes.rows import Rendered, World
from unnoise.modalities.image.scenes.source import ROWS, read_scenes
from unnoise.modalities.image.scenes.world import Relation
from unnoise.recipes.sources import PictureSource, source_of


def ball(colour, corner=(10, 20)):
    """RGBA 64 x 64 with a rectangle of 30 x 20 pixels."""
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[corner[1] : corner[1] + 20, corner[0] : corner[0] + 30] = (*colour, 255)
    return picture


@pytest.fixture
def sprites_zip(tmp_path):
    rows = []
    with zipfile.ZipFile(tmp_path / "sprites.zip", "w") as archive:
        for i, name in enumerate(("red apple", "cat", "baby bottle", "man in suit")):
            with archive.open(f"{name}.png", "w") as f:
                Image.fromarray(ball((255 if i == 0 else i, 0, 0))).save(f, "png")
            rows.append(json.dumps({"file": f"{name}.png", "name": name}))
        archive.writestr("captions.jsonl", "\n".join(rows))
    return tmp_path / "sprites.zip"


def test_the_word_scenes_is_a_source_of_pictures():
    source = source_of("scenes", PictureOptions(size=48))
    assert isinstance(source, PictureSource)
    opened = source.open()
    assert len(opened.pictures) == ROWS
    assert "drawn as they are needed, 48 x 48" in opened.account()
    data = read_scenes(source.path, source.options, rows=50)
    assert (len(data), data.height, data.width, data.channels) == (50, 48, 48, 3)
    world = World(kinds=LEARNT)
    assert np.array_equal(data.pictures([3, 1]), Rendered(world, 48)([3, 1]))
    assert [data.captions[i] for i in (0, 49, -1)] == [world.captions(i) for i in (0, 49, 49)]
    assert data.captions[10:13] == [world.captions(i) for i in (10, 11, 12)]
    rest, held = data.split(0.3)
    assert sorted(rest.names + held.names) == sorted(data.names)
    assert np.array_equal(held.pictures([0])[0], data.pictures([data.names.index(held.names[0])])[0])


def test_captions_of_endless_sets_are_made_only_when_asked_for():
    data = read_scenes("scenes", rows=10**6)
    assert parse(data.captions[999_999][0]) == World(kinds=LEARNT).request(999_999)


def test_training_sees_more_of_what_is_learnt_last():
    """More than 40 of 400 inside others: 0.23 are meant (fewer once in 10^10 draws), and 0.03 of a plain world (more in 10^9)."""
    inside = [sum(world.request(row).relation is Relation.INSIDE for row in range(400)) for world in (World(kinds=LEARNT), World())]
    assert inside[0] > 40 > inside[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (PictureOptions(size=16), "32 to 512"),
        (PictureOptions(flip=True), "mirrored"),
        (PictureOptions(alpha=True), "of their own"),
        (PictureOptions(buckets=16), "one size"),
        (PictureOptions(shape=(32, 48)), "square"),
        (PictureOptions(background="red"), "lay over a background"),
    ],
)
def test_options_that_would_spoil_scenes_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        read_scenes("scenes", options)


def test_sprites_are_cut_to_what_is_seen_and_named_so_that_captions_are_read_back(sprites_zip):
    sprites = read_sprites(sprites_zip)
    assert sprites.vocabulary.names == ("baby bottle", "cat", "red apple")  # a man in a suit has no plain plural
    assert sprites.aspect("cat") == pytest.approx(1.5, abs=0.05)
    drawn = np.asarray(sprites.draw("red apple", "", 30, 20, 1))
    assert drawn.shape == (20, 30, 4)
    assert np.abs(drawn[2:-2, 2:-2].astype(int) - (255, 0, 0, 255)).max() <= 4
    world = World(sprites)
    for row in range(60):
        assert all(parse(text, sprites.vocabulary) == world.request(row) for text in world.captions(row))
    data = read_scenes(f"scenes:{sprites_zip}", rows=10)
    assert np.array_equal(data.pictures([4]), Rendered(World(sprites, kinds=LEARNT), 64)([4]))


def test_too_few_sprites_are_refused(tmp_path):
    Image.fromarray(ball((1, 2, 3))).save(tmp_path / "a.png")
    (tmp_path / "captions.jsonl").write_text(json.dumps({"file": "a.png", "name": "cat"}))
    with pytest.raises(InputError, match="at least 3"):
        read_sprites(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_sprites(tmp_path / "none.ttf")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    with pytest.raises(InputError, match="no font"):
        read_sprites(tmp_path / "broken.ttf")


def test_the_first_of_two_with_one_name_stays_and_empty_ones_go():
    nothing = np.zeros((8, 8, 4), np.uint8)
    sprites = PictureSprites.of([("cat", nothing), ("cat", ball((1, 1, 1))), ("cat", ball((2, 2, 2)))])
    assert sprites.pictures["cat"][5, 5].tolist() == [1, 1, 1, 255]


def test_a_colour_font_gives_its_emoji_in_their_colours(tmp_path):
    """A font of three layered glyphs (COLR and CPAL), made here: what FreeType draws of it is what was put in."""
    builder = pytest.importorskip("fontTools.fontBuilder", reason="fontTools comes with matplotlib")
    pens = pytest.importorskip("fontTools.pens.ttGlyphPen")

    def square(side):
        pen = pens.TTGlyphPen(None)
        for i, xy in enumerate(((0, 0), (0, side), (side, side), (side, 0))):
            (pen.lineTo if i else pen.moveTo)(xy)
        pen.closePath()
        return pen.glyph()

    colours = {"cat": (1.0, 0.0, 0.0, 1.0), "dog": (0.0, 0.0, 1.0, 1.0), "fish": (0.0, 0.5, 0.0, 1.0)}
    characters = {0x1F408: "cat", 0x1F415: "dog", 0x1F41F: "fish"}
    order = [".notdef", *colours, "layer"]
    font = builder.FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(order)
    font.setupCharacterMap(characters)
    font.setupGlyf({g: square(500 if g == ".notdef" else 800) for g in order})
    font.setupHorizontalMetrics(dict.fromkeys(order, (1000, 0)))
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupCOLR({name: [("layer", i)] for i, name in enumerate(colours)})
    font.setupCPAL([list(colours.values())])
    font.setupNameTable({"familyName": "Test", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "emoji.ttf")
    sprites = read_sprites(tmp_path / "emoji.ttf")
    assert sprites.vocabulary.names == ("cat", "dog", "fish")
    for name, rgba in colours.items():
        middle = sprites.pictures[name][20, 20]
        assert np.abs(middle - np.array(rgba) * 255).max() <= 1
