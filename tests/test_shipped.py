"""The models in the package: they draw what they are told, on any machine, without a download."""

import shlex

import numpy as np
import pytest
from command_line import refused
from PIL import Image

from unnoise.checkpoints.shipped import FOLDER, shipped, shipped_folder, suited
from unnoise.cli.again import command
from unnoise.cli.main import main
from unnoise.core.errors import InputError
from unnoise.loading import load
from unnoise.modalities.image.show import read_meta
from unnoise.recipes.cascade import go_on

ndimage = pytest.importorskip("scipy.ndimage")


def test_they_are_small_and_say_where_they_come_from():
    assert shipped() == ("larger", "scenes", "stickers")
    for name in shipped():
        assert sum(f.stat().st_size for f in (FOLDER / name).iterdir()) <= 40e6
        card = (FOLDER / name / "README.md").read_text()
        assert "Licence: not stated" not in card
        assert "Trained on: not stated" not in card
        assert ("(samples.png)" in card) == (FOLDER / name / "samples.png").is_file() == (name != "larger")


def places(pixels: np.ndarray, colour: np.ndarray) -> list[tuple[int, int]]:
    """Columns of the connected parts of this mask: (first, last) of each of 20 pixels or more."""
    parts, n = ndimage.label(colour)
    found = [np.nonzero((parts == i).any(0))[0] for i in range(1, n + 1) if (parts == i).sum() >= 20]
    return [(int(c.min()), int(c.max())) for c in found]


def test_three_red_apples_left_of_a_sign():
    x = load("scenes").sample("three red apples left of a sign that says OPEN", n=4, seed=0).data.numpy().astype(int)
    for pixels in x:
        r, g, b = np.moveaxis(pixels, -1, 0)
        apples = places(pixels, (r - g > 80) & (r - b > 80))
        assert len(apples) == 3
        beyond = max(last for _, last in apples) + 3
        ink = pixels.max(-1) < 100
        assert ink[:, beyond:].sum() >= 30  # the letters lie to the right of the last apple
        assert ink[:, :beyond].sum() < ink[:, beyond:].sum()


@pytest.mark.parametrize("n", [2, 5, 9])
def test_counts(n):
    x = load("scenes").sample(f"{n} red hearts", n=4, seed=1).data.numpy().astype(int)
    got = [len(places(p, (p[..., 0] - p[..., 1] > 70) & (p[..., 0] - p[..., 2] > 70))) for p in x]
    assert got == [n] * 4


def test_a_prompt_alone_goes_to_the_model_that_ships(tmp_path, capsys):
    main(["sample", "two blue stars", "-n", "1", "--steps", "2", "--out", str(tmp_path / "a")])
    main(["sample", "scenes", "two blue stars", "-n", "1", "--steps", "2", "--out", str(tmp_path / "b")])
    (of_prompt,), (of_name,) = (
        [read_meta(f) for f in (tmp_path / out).glob("*.png") if f.name != "sheet.png"] for out in ("a", "b")
    )
    for key in ("model_hash", "prompt", "sample_seed"):
        assert of_prompt[key] == of_name[key]
    assert of_name["model_hash"] == load("scenes").hash() != load("stickers").hash()
    pictures = [np.asarray(Image.open(next((tmp_path / out).glob("*stars*.png")))) for out in ("a", "b")]
    np.testing.assert_array_equal(*pictures)


def test_long_prompts_and_folders_of_their_names_are_no_hindrance(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stickers").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "stickers" / "0.png")  # samples of before, no model
    for _ in range(2):
        main(["sample", "a smiling cat, " * 20 + "seen from the side", "-n", "1", "--steps", "1"])
    assert {p.name for p in tmp_path.iterdir()} == {"stickers", "samples", "samples-2"}
    assert read_meta(tmp_path / "samples" / "sheet.png")["model_path"] == "stickers"
    main(["sample", "stickers", "a cat", "-n", "1", "--steps", "1", "--out", "cats"])
    assert load("stickers").path == "stickers"
    main(["info", "larger"])
    assert "larger" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["~/My Models/sd15", "/my models/sd15", "../a b/c", "./my models", "my model.safetensors"])
def test_a_place_where_nothing_is_is_no_prompt(place, tmp_path, capsys):
    said = refused(["sample", place, "a cat", "--out", str(tmp_path / "out")], capsys)
    assert "no such model: no folder or file is there" in said


def test_devices(tmp_path, capsys):
    asked = ["sample", "two red stars", "-n", "1", "--steps", "1", "--out", str(tmp_path / "out"), "--device"]
    main([*asked, "cpu"])
    assert (tmp_path / "out" / "sheet.png").exists()
    asked[asked.index("--out") + 1] = str(tmp_path / "none")
    assert "--device abacus: " in refused([*asked, "abacus"], capsys)
    assert not (tmp_path / "none").exists()


def test_the_exact_model_takes_no_weights():
    with pytest.raises(InputError, match="reads sentences; weights and brackets mean nothing to it"):
        load("scenes").sample("five (red:1.4) apples", steps=1)


@pytest.mark.parametrize(
    ("prompts", "name"),
    [
        (["three red apples left of a sign that says OPEN"], "scenes"),
        (["red apple", "two stars above a house"], "scenes"),
        (["a cat"], "stickers"),
        (["red apple", "a dog wearing a top hat"], "stickers"),
        (["three (red:1.3) apples"], "stickers"),  # weights are not of the exact model's grammar
        (["ten blue fish \U0001f41f"], "stickers"),
        (["three red apples!"], "scenes"),
    ],
)
def test_prompts_go_to_the_model_that_understands_them(prompts, name):
    assert suited(prompts) == name


def test_stickers_are_transparent_and_have_the_colour_that_was_asked_for():
    """Of 8 pictures of each, most of what is seen has more of that channel than of any other."""
    model = load("stickers")
    for prompt, channel in (("red heart", 0), ("green circle", 1), ("blue circle", 2)):
        x = model.sample(prompt, n=8, seed=5, steps=10).data.numpy().astype(int)
        seen = x[..., 3] > 200
        assert (~seen).mean() > 0.05
        assert (x[..., :3][seen].argmax(-1) == channel).mean() > 0.5


def test_what_prompts_count_and_place_is_arranged_where_no_model_is_named(tmp_path, capsys):
    """Without a model's name; and with it, by --arrange: the same picture, and the command that is written makes it again."""
    main(["sample", "three tomatoes left of a cucumber", "-n", "1", "--out", str(tmp_path / "a")])
    assert "each thing drawn alone" in capsys.readouterr().err
    picture = np.asarray(Image.open(next((tmp_path / "a").glob("0*.png")))).astype(int)
    assert picture.shape == (128, 128, 4)
    marks, n = ndimage.label(picture[..., 3] > 127)
    parts = [marks == k for k in range(1, n + 1) if (marks == k).sum() > 50]
    found = sorted((np.nonzero(part)[1].mean(), picture[part][:, :3].mean(0).argmax()) for part in parts)
    assert [channel for _, channel in found] == [0, 0, 0, 1]  # from left to right: red, red, red, green

    again = read_meta(next((tmp_path / "a").glob("0*.png")))
    assert (again["arrange"], again["prompt"], again["strength"]) == (0.0, "three tomatoes left of a cucumber", None)
    words = shlex.split(command(again))
    main([*words[1:-1], str(tmp_path / "b")])
    assert np.array_equal(np.asarray(Image.open(next((tmp_path / "b").glob("0*.png")))), picture)


@pytest.mark.parametrize(
    ("prompt", "hard"),
    [
        ("two cats behind a red star", "it arranges one to ten of a kind"),
        ("eleven apples", "it arranges one to ten of a kind"),
        ("\U0001f34e" * 12, "it arranges one to ten of a kind"),
        ("\U0001f1eb\U0001f1f7" * 2, "it arranges one to ten of a kind"),
        ("a sign that says EXTRAORDINARY", "'EXTRAORDINARY': 1 to 10 capital letters"),
        ("a cat wearing a hat", None),
    ],
)
def test_it_is_said_where_what_is_counted_or_placed_is_not_arranged(prompt, hard, tmp_path, capsys):
    main(["sample", prompt, "-n", "1", "--steps", "1", "--out", str(tmp_path / "a")])
    said = capsys.readouterr().err
    assert "drawn alone" not in said
    assert (f"{prompt!r} is drawn at once" in said) is (hard is not None)
    assert (hard or "") in said


def test_the_model_goes_over_what_was_put_together(tmp_path):
    run = ["sample", "stickers", "two red hearts", "-n", "1", "--steps", "4", "--out"]
    main([*run, str(tmp_path / "a"), "--arrange", "0", "--height", "64"])
    main([*run, str(tmp_path / "b"), "--arrange", "0.5"])
    main([*run, str(tmp_path / "c"), "--arrange", "1"])
    bare, little, much = (np.asarray(Image.open(next((tmp_path / k).glob("0*.png")))).astype(float) for k in "abc")
    assert bare.shape == little.shape == (64, 64, 4)
    assert 1 < np.abs(bare - little).mean() < np.abs(bare - much).mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["two cats", "--arrange", "2"], "--arrange 2: the share"),
        (["two cats", "--arrange", "0", "--error", "0.1"], "--error"),
        (["--arrange", "0"], "without a prompt"),
        (["two cats and", "--arrange", "0"], "at the end"),
        (["two cats", "--arrange", "0", "-n", "0"], "n 0: ask for at least 1"),
        (["two cats", "--arrange", "0.2", "--steps", "2"], "less than one step"),
        (["two cats", "--arrange", "0", "--height", "64", "--width", "32"], "square"),
    ],
)
def test_what_is_not_arranged_is_refused(tmp_path, capsys, options, message):
    assert message in refused(["sample", "stickers", *options, "--out", str(tmp_path / "x")], capsys)


LONG = "cat " * 2500
BAD = [
    ("stickers", LONG, "2,500 pieces of words; this model reads 320 at most"),
    ("stickers", "(three red apples", "'(' is never closed"),
    ("stickers", "three red apples]]", "']' closes nothing"),
    ("stickers", "!!! ...", "the prompt '!!! ...' has no words: say what to draw"),
    (
        "stickers",
        "a cat \ud55c",
        "'\ud55c' in the prompt: this model's vocabulary has no piece of it; leave it out, or use English",
    ),
    ("stickers", "z" * 9_000, "zzz...' in the prompt: this model's vocabulary has no piece of it"),
    ("scenes", "a zxqv blorf", "nothing in the prompt 'a zxqv blorf' is something that this model draws"),
    ("scenes", "\U0001f34e", "which no training caption has"),
    ("scenes", "!!! ...", "nothing in the prompt"),
    ("scenes", "eleven red apples", "the prompt 'eleven red apples': how many apples, one to ten, is to be said before them"),
    ("scenes", "12 stars", "the prompt '12 stars': how many stars, one to ten, is to be said before them"),
    ("scenes", LONG, "9,999 bytes long; this model reads at most"),
    ("scenes", "", "the prompt is empty"),
]


@pytest.mark.parametrize(("name", "prompt", "message"), BAD, ids=[f"{name}: {prompt[:20]!r}" for name, prompt, _ in BAD])
def test_prompts_that_cannot_be_drawn_are_refused_in_one_line(name, prompt, message):
    with pytest.raises(InputError) as e:
        load(name).sample(prompt, steps=1)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_what_cannot_be_read_is_refused_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("unnoise.recipes.speed._costs", lambda *told: pytest.fail("measured"))
    said = refused(["sample", "stickers", "a cat \ud55c", "--error", "0.1", "--out", str(tmp_path / "x")], capsys)
    assert "this model's vocabulary has no piece of it" in said


def test_stickers_draw_words_that_they_never_saw():
    """Unknown words, an emoji, nothing, from the same noise: no two the same; the same words are, emoji by their names."""
    prompts = ["a zxqv blorf", "\U0001f34e", "", "a ZXQV  blorf", "red apple"]
    *different, again, apple = load("stickers").sample(prompts, sample_seeds=[3] * 5, steps=1).data.int()
    assert int((different[0] - again).abs().max()) <= 1  # of rows of one batch, to rounding
    assert int((different[1] - apple).abs().max()) <= 1
    for i, x in enumerate(different):
        assert all(float((x - y).abs().float().mean()) > 1 for y in different[:i])  # of 255


def test_opaque_pictures_stay_opaque_however_often_they_are_enlarged():
    made = load("scenes").sample("two red apples", steps=1)
    assert made.data.shape[-1] == 3
    assert int(go_on(made, [load("larger")] * 2).data[..., 3].min()) == 255


def test_emoji_are_a_prompt_and_are_counted(tmp_path, capsys):
    main(["sample", "\U0001f989\U0001f989", "-n", "1", "--steps", "1", "--out", str(tmp_path / "out")])
    assert "each thing drawn alone and put where the prompt says" in capsys.readouterr().err
    assert (tmp_path / "out" / "0000-owl-owl.png").is_file()


def test_a_prompt_of_one_word_is_taken_for_a_model_and_the_way_to_draw_it_is_said(capsys):
    assert refused(["sample", "cat"], capsys) == (
        "unnoise: cat: no such model: no folder or file of that name is here, and larger, scenes, stickers ship; to draw it: "
        "unnoise sample stickers cat"
    )
    assert "unnoise sample stickers '!!!'" in refused(["sample", "!!!"], capsys)
    for name in ("model.safetensors", "runs/\U0001f989"):
        assert "a model is a folder with config.json" in refused(["sample", name], capsys)


def test_what_scenes_draws_is_enlarged_and_stays_opaque():
    small = load("scenes").sample("two red apples", n=1, seed=3)
    made = go_on(small, [load("larger")]).data[0].numpy()
    assert made.shape == (128, 128, 4)
    assert (made[..., 3] == 255).all()
    again = np.asarray(Image.fromarray(made[..., :3]).resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(again - small.data[0].numpy().astype(int)).mean() < 6  # of 255


def test_what_stickers_draws_is_enlarged(tmp_path, capsys):
    """To 128 x 128 with transparency, of which what is left on a quarter of the size is the picture that it began with."""
    main(["sample", "stickers", "red heart", "-n", "1", "--seed", "5", "--then", "larger", "--out", str(tmp_path / "out")])
    (file,) = (f for f in (tmp_path / "out").glob("*.png") if f.name != "sheet.png")
    large = np.asarray(Image.open(file)).astype(float)
    small = load("stickers").sample("red heart", 1, 5).data[0].numpy().astype(float)
    assert large.shape == (128, 128, 4)
    alpha = large[..., 3].reshape(64, 2, 64, 2).mean((1, 3))
    assert np.abs(alpha - small[..., 3]).mean() < 6
    assert "has none to enlarge" in refused(["sample", "larger", "a cat", "--out", str(tmp_path / "alone")], capsys)


def test_names_of_none_are_refused(tmp_path):
    assert shipped_folder("nonesuch") is None
    with pytest.raises(InputError, match="ship with unnoise: larger, scenes, stickers"):
        load(tmp_path / "nonesuch")
