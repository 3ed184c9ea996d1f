"""A text encoder taught by a tiny teacher, in its own process: it comes to agree with it, is saved, resumed and used by name."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from unnoise.core.errors import InputError
from unnoise.loading import load
from unnoise.modalities.words.frozen import Sentence
from unnoise.modalities.words.joined import sd3, sdxl
from unnoise.recipes import distil_text as recipe
from unnoise.recipes.options import Options
from unnoise.recipes.text_encoders import fill, learn_by_heart, load_distilled, save_distilled, words_of
from unnoise.recipes.train import average, plan, resume, start

sys.path.insert(0, str(Path(__file__).parent.parent / "modalities"))
from words import encoders

CAPTIONS = ["a red cat", "cat", "red dog", "a dog and a cat"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    encoders.save_bert(folder, 0)
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i, caption in enumerate(CAPTIONS):
        Image.fromarray(np.full((8, 8, 3), 50 * i, dtype=np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)
    return folder


def distilled(teacher: str, pictures: Path, folder: Path) -> str:
    """The folder of a small text encoder, hardly taught."""
    student = plan(str(pictures), Options(text_encoder=teacher, steps=2, batch=4, width=24, depth=1), "distil-text")
    assert isinstance(student.run, recipe.DistilRun)
    encoder = replace(student.run.student.encoder, rank=4, heads=2)
    start(replace(student, run=replace(student.run, pairs=4, student=replace(student.run.student, encoder=encoder))), folder)
    return str(folder)


def test_the_student_comes_to_agree_with_its_teacher(teacher: str, pictures: Path, tmp_path: Path) -> None:
    planned = plan(str(pictures), Options(text_encoder=teacher, steps=60, batch=16, width=24, depth=1, lr=1e-2), "distil-text")
    run = planned.run
    assert isinstance(run, recipe.DistilRun)
    encoder = replace(run.student.encoder, rank=8, heads=2)
    planned = replace(planned, run=replace(run, pairs=20, student=replace(run.student, encoder=encoder)))
    start(planned, tmp_path / "run")
    again = resume(tmp_path / "run", progress=False)
    student, frozen = load_distilled(tmp_path / "run"), run.teacher.build()
    for k, v in student.state_dict().items():
        assert torch.equal(v, again.state_dict()[k])
    texts = recipe.lessons(set(CAPTIONS), planned.run.student, 20, 0)
    assert set(CAPTIONS) <= set(texts)
    with torch.no_grad():
        theirs = frozen.prepare(texts)["vector"]
        ours = normalize(student(student.prepare(texts))["vector"], dim=-1)
        blank = replace(student.config, encoder=encoder).build()
        before = normalize(blank(blank.prepare(texts))["vector"], dim=-1)
    assert (ours * theirs).sum(1).mean() > 0.9
    assert (before * theirs).sum(1).mean() < 0.5

    words = words_of(str(tmp_path / "run"))
    assert (words.vector_dim, words.token_dim) == (16, 16)
    fresh = words.conditioner.build()
    fill(fresh, str(tmp_path / "run"))
    with torch.no_grad():
        torch.testing.assert_close(fresh(fresh.prepare(["red cat"]))["vector"], student(student.prepare(["red cat"]))["vector"])


def test_the_loss_by_hand() -> None:
    """mean(1 - cos) + 10 mean (S_u - S_v)^2, rows in any order."""
    torch.manual_seed(0)
    config = recipe.WordEncoderConfig(9, out=5, rank=4, width=12, depth=1, heads=2)
    student = recipe.DistilledConfig(config, "\n".join(["[PAD]", "[NOTHING]", "[UNK]", *"abcdef"])).build()
    prepared = student.prepare(["a b", "c", "d e f a", "b b", "f"])
    v = normalize(torch.randn(5, 5), dim=-1)
    out = recipe.DistilTask(student)({"ids": prepared["ids"], "vector": v}, None)  # type: ignore[arg-type]
    u = normalize(student(prepared)["vector"], dim=-1)
    expected = (1 - (u * v).sum(1)).mean() + 10 * (u @ u.T - v @ v.T).square().mean()
    torch.testing.assert_close(out["loss"], expected)


def test_the_table_begins_as_the_teachers_principal_components(teacher: str, pictures: Path) -> None:
    """With as many components as the teacher has, distances between rows are the teacher's, up to one scale."""
    planned = plan(str(pictures), Options(text_encoder=teacher, steps=1, width=24, depth=1), "distil-text")
    assert isinstance(planned.run, recipe.DistilRun)
    frozen = planned.run.teacher.build()
    encoder = replace(planned.run.student.encoder, rank=16, heads=2)
    student = replace(planned.run.student, encoder=encoder).build()
    recipe.begin_with(student, frozen)
    assert isinstance(frozen, Sentence)
    known = frozen.opened.tokenizer.get_vocab()
    theirs = frozen.opened.network.get_input_embeddings().weight[[known[p] for p in student.config.vocabulary.split("\n")[3:]]]
    ratio = torch.pdist(student.encoder.table.weight[3:]) / torch.pdist(theirs)
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-4, atol=0)


def test_captions_are_learnt_by_heart_once(teacher: str, tmp_path: Path) -> None:
    conditioner = words_of(teacher).conditioner.build()
    assert isinstance(conditioner, Sentence)
    expected = conditioner.prepare([*CAPTIONS, None])
    learn_by_heart(conditioner, CAPTIONS[:2], tmp_path)
    learn_by_heart(conditioner, CAPTIONS, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    assert conditioner.identity in file.name
    conditioner.encode = None  # type: ignore[assignment]  # must not be asked
    conditioner._recent.clear()
    for k, v in conditioner.prepare([*CAPTIONS, None]).items():
        torch.testing.assert_close(v, expected[k], rtol=1e-3, atol=2e-3)


def test_what_is_no_text_encoder(tmp_path: Path, teacher: str) -> None:
    with pytest.raises(InputError, match="not a text encoder; `unnoise train DATA --recipe distil-text"):
        load_distilled(tmp_path)
    with pytest.raises(InputError, match="could not be loaded"):
        words_of(str(tmp_path))
    vocabulary = ["[PAD]", "[NOTHING]", "[UNK]", "a"]
    config = recipe.DistilledConfig(recipe.WordEncoderConfig(4, 5, 4, 12, 1, 2), "\n".join(vocabulary))
    with pytest.raises(InputError, match="needs its folder"):
        fill(config.build(), None)


def test_pictures_are_told_by_a_frozen_and_by_a_distilled_encoder(teacher: str, pictures: Path, tmp_path: Path) -> None:
    """The network of the saved model is told what the encoder says; a frozen one is read anew, a distilled one lies within."""
    for name, inside in ((teacher, False), (distilled(teacher, pictures, tmp_path / "w"), True)):
        planned = plan(str(pictures), Options(text_encoder=name, steps=2, batch=4, width=16, depth=1))
        model = start(planned, tmp_path / f"run-{inside}")
        assert any(k.startswith("conditioner.") for k in model.parts.state_dict()) == inside
        assert len(list((tmp_path / f"run-{inside}").glob("words-*.safetensors"))) == (not inside)
        told = words_of(name).conditioner.build()
        fill(told, name)
        prompt = "a [red:black:0.5] (cat:1.2)"
        torch.testing.assert_close(model.conditioner(model.conditioner.prepare([prompt])), told(told.prepare([prompt])))
        assert len(model.sample(prompt, n=2, steps=2)) == 2


@pytest.mark.parametrize("spelling", [False, True])
def test_captions_that_a_distilled_encoder_cannot_read_are_trained_on(
    spelling: bool, teacher: str, pictures: Path, tmp_path: Path
) -> None:
    """They are unknown words: previews, which are drawn of captions, too. Prompts that are typed are refused."""
    folder = tmp_path / "data"
    shutil.copytree(pictures, folder)
    for file in folder.glob("*.txt"):
        file.write_text("\u043a\u043e\u0442", encoding="utf-8")
    words = distilled(teacher, pictures, tmp_path / "w")
    options = Options(text_encoder=words, spelling=spelling, steps=2, batch=4, width=16, depth=1)
    model = start(plan(str(folder), options), tmp_path / "run")
    assert len(model.sample("\u043a\u043e\u0442", steps=1, captions=True)) == 1
    with pytest.raises(InputError, match="in the prompt: this model's vocabulary has no piece of it"):
        model.sample("\u043a\u043e\u0442", steps=1)


def test_two_frozen_encoders_are_told_end_to_end(teacher: str, pictures: Path, tmp_path: Path) -> None:
    """What each says by itself, one behind the other; each has a book of its own beside the run."""
    encoders.save_t5(tmp_path / "t5", 1)
    both = f"{teacher},{tmp_path / 't5'}"
    model = start(plan(str(pictures), Options(text_encoder=both, steps=2, batch=4, width=16, depth=1)), tmp_path / "run")
    assert len(list((tmp_path / "run").glob("words-*.safetensors"))) == 2
    told = model.conditioner(model.conditioner.prepare(["a red cat"]))
    first, second = (words_of(name).conditioner.build() for name in both.split(","))
    one, two = (c(c.prepare(["a red cat"])) for c in (first, second))
    length = one["tokens"].shape[1]
    torch.testing.assert_close(told["tokens"][:, :length, : one["tokens"].shape[2]], one["tokens"], rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(told["tokens"][:, length:, : two["tokens"].shape[2]], two["tokens"], rtol=1e-3, atol=2e-3)
    assert len(model.sample("a red cat", n=2, steps=2)) == 2
    distilled(teacher, pictures, tmp_path / "w")
    with pytest.raises(InputError, match="w: a distilled text encoder is told alone"):
        words_of(f"{teacher},{tmp_path / 'w'}")


def test_two_clips_are_told_as_sdxl_joins_them_and_with_t5_as_sd3_does(teacher: str, pictures: Path, tmp_path: Path) -> None:
    """`joined.sdxl` and `joined.sd3`, which are compared with diffusers' pipelines elsewhere; networks are as wide as they tell."""
    for name, seed in (("l", 1), ("g", 2)):
        encoders.save_clip(tmp_path / name, seed, width=16 + 8 * seed, projected=True)
    encoders.save_t5(tmp_path / "t5", 3)
    l, g, t5 = (str(tmp_path / name) for name in ("l", "g", "t5"))
    first, second, third = (words_of(name).conditioner for name in (l, g, t5))
    for asked, expected in ((f"{l}+{g}", sdxl(first, second)), (f"{l} + {g}, {t5}", sd3(first, second, third))):
        words = words_of(asked)
        assert words.conditioner == expected
        told = words.conditioner.build()
        said = told(told.prepare(["a red cat", None]))
        assert (said["vector"].shape[1], said["tokens"].shape[2]) == (words.vector_dim, words.token_dim)
    model = start(plan(str(pictures), Options(text_encoder=f"{l}+{g},{t5}", steps=2, batch=4, width=16, depth=1)), tmp_path / "run")
    assert model.config.conditioner == sd3(first, second, third)
    assert len(load(tmp_path / "run").sample("a red cat", n=2, steps=2)) == 2
    shutil.copytree(l, tmp_path / "in+one")  # a folder's own name
    assert len(words_of(f"{tmp_path / 'in+one'},{t5}").conditioner.parts) == 2
    for odd in (f"{l}+{t5}", f"{l}+{g}+{l}", f"{l}+{g},{l}", f"{l}+{g},{t5},{t5}", f"{t5},{l}+{g}", f"{l}+", f"{teacher}+{l}"):
        with pytest.raises(InputError, match=r"CLIP\+CLIP are told side by side"):
            words_of(odd)


def test_a_run_refuses_another_text_encoder_in_the_folder_of_its_own(teacher: str, pictures: Path, tmp_path: Path) -> None:
    """What is averaged, or gone on with, is told by the encoder that the training was told by, or not made at all."""
    taught = words_of(distilled(teacher, pictures, tmp_path / "w")).conditioner.build()
    planned = plan(str(pictures), Options(text_encoder=str(tmp_path / "w"), steps=2, batch=4, width=16, depth=1))
    model = start(planned, tmp_path / "run")
    again = average(tmp_path / "run", 0.1)
    for k, v in again.conditioner.encoder.state_dict().items():
        assert torch.equal(v, model.conditioner.encoder.state_dict()[k])

    save_distilled(tmp_path / "w" / "model", taught)  # of the same shape, with fresh weights
    for go_on in (lambda: average(tmp_path / "run", 0.1), lambda: resume(tmp_path / "run", progress=False)):
        with pytest.raises(InputError, match=r"w: its weights are .* and this run was planned with"):
            go_on()

    before = json.loads((tmp_path / "run" / "run.json").read_text())  # runs of earlier versions know the folder alone
    before["run"]["words"] = str(tmp_path / "w")
    (tmp_path / "run" / "run.json").write_text(json.dumps(before))
    assert average(tmp_path / "run", 0.1).conditioner.encoder is not None
