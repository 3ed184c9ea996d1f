"""Learnt words against diffusers' load_textual_inversion: the same tokens, the same embeddings."""

import json
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lora_files import kohya, merged, networks, ours_says, pairs, theirs_says, written
from lora_files import model_of as lora_model
from modalities.words import encoders
from safetensors.torch import save_file
from torch import Tensor

from unnoise.checkpoints.foreign.lora import low_rank
from unnoise.checkpoints.foreign.textual_inversion import textual_inversion
from unnoise.core.codec import UnconditionalConfig
from unnoise.core.errors import InputError
from unnoise.modalities.words.frozen import CLIPText, encoders_of, read_encoder
from unnoise.modalities.words.joined import sdxl

PROMPTS = ["a <toy>", "<toy>,<toy> red cat!", "A <toy>red", "a cat"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    encoders.save_clip(folder / "text_encoder", 0)
    encoders.save_clip(folder / "text_encoder_2", 1, width=24, projected=True, pad="!")
    encoders.save_t5(folder / "t5", 2)
    return folder


def model_of(conditioner) -> SimpleNamespace:
    return SimpleNamespace(conditioner=conditioner, denoiser=None)


def ids_of(encoder: CLIPText, prompt: str) -> list[int]:
    return [i for ids, _ in encoder._spoken([(prompt, 1.0)]) for i in ids]


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def told(conditioner, *prompts: str) -> dict[str, Tensor]:
    return dict(conditioner(conditioner.prepare(prompts)))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [0, 1, 3], ids=["one row", "a table of one row", "three vectors"])
@pytest.mark.parametrize("form", ["diffusers", "web UI"])
def test_words_of_one_encoder(hub: Path, tmp_path: Path, form: str, n: int) -> None:
    from diffusers import StableDiffusionPipeline
    from transformers import AutoTokenizer, CLIPTextModel

    learnt = 3 * vectors(n, 16) if n else 3 * vectors(16)
    file = tmp_path / "<toy>.safetensors"
    save_file({"<toy>" if form == "diffusers" else "emb_params": learnt}, file)
    encoder, tokenizer = CLIPTextModel.from_pretrained(hub / "text_encoder"), AutoTokenizer.from_pretrained(hub / "tokenizer")
    pipeline = StableDiffusionPipeline(None, encoder, tokenizer, None, None, None, None, requires_safety_checker=False)
    pipeline.load_textual_inversion({"<toy>": learnt})
    ours, twin = (read_encoder(str(hub / "text_encoder")).build() for _ in range(2))
    before = told(ours, *PROMPTS)
    assert textual_inversion(model_of(ours), file) == ("<toy>",)
    for prompt in PROMPTS:
        ids = tokenizer(pipeline.maybe_convert_prompt(prompt, tokenizer), add_special_tokens=False)["input_ids"]
        assert ids_of(ours, prompt) == ids
    assert ids_of(ours, "A <TOY>red") == ids_of(ours, "A <toy>red"), "of a word in capitals diffusers reads the first vector alone"
    with torch.no_grad():
        expected = torch.cat([pipeline.encode_prompt(p, torch.device("cpu"), 1, False)[0] for p in PROMPTS])
    after = told(ours, *PROMPTS)
    close(after["tokens"], expected)
    assert (after["tokens"] - before["tokens"])[:3].abs().amax((1, 2)).min() > 0.1
    pipeline.text_encoder.save_pretrained(tmp_path / "text_encoder")
    pipeline.tokenizer.save_pretrained(tmp_path / "tokenizer")
    close(told(read_encoder(str(tmp_path / "text_encoder")).build(), *PROMPTS)["tokens"], expected)
    close(after["tokens"][3], before["tokens"][3])
    assert torch.equal(told(twin, *PROMPTS)["tokens"], before["tokens"]), "another model has not learnt it"


@pytest.mark.parametrize("form", ["diffusers", "web UI"])
def test_the_command_that_converts_pickles(hub: Path, tmp_path: Path, form: str) -> None:
    """What diffusers reads of the pickle itself, against what is read here once the command that the refusal tells was run."""
    from diffusers import StableDiffusionPipeline
    from transformers import AutoTokenizer, CLIPTextModel

    learnt, file = 3 * vectors(2, 16), tmp_path / ("<toy>.pt" if form == "web UI" else "learned_embeds.bin")
    told_of = {"string_to_token": {"*": 265}, "name": "<toy>", "step": 9, "sd_checkpoint": None, "sd_checkpoint_name": None}
    whole = torch.nn.Parameter(vectors(4, 16))  # of which the vectors are a part, as of a table
    with torch.no_grad():
        whole[:2] = learnt
    torch.save({"<toy>": whole[:2]} if form == "diffusers" else {**told_of, "string_to_param": {"*": whole[:2]}}, file)
    ours = read_encoder(str(hub / "text_encoder")).build()
    with pytest.raises(InputError, match="a pickle, which runs code when it is read; convert it: python -c ") as e:
        textual_inversion(model_of(ours), file)
    python, *arguments = shlex.split(str(e.value).partition("convert it: ")[2])
    assert python == "python"
    subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True)
    assert textual_inversion(model_of(ours), file.with_suffix(".safetensors")) == ("<toy>",)
    encoder, tokenizer = CLIPTextModel.from_pretrained(hub / "text_encoder"), AutoTokenizer.from_pretrained(hub / "tokenizer")
    pipeline = StableDiffusionPipeline(None, encoder, tokenizer, None, None, None, None, requires_safety_checker=False)
    pipeline.load_textual_inversion(tmp_path, weight_name=file.name)
    with torch.no_grad():
        expected = torch.cat([pipeline.encode_prompt(p, torch.device("cpu"), 1, False)[0] for p in PROMPTS])
    close(told(ours, *PROMPTS)["tokens"], expected)


def test_words_of_several_encoders(hub: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionXLPipeline
    from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection

    learnt = {"clip_l": 3 * vectors(2, 16), "clip_g": 3 * vectors(2, 24, seed=1)}
    save_file(learnt, tmp_path / "whatever.safetensors")
    networks = (
        CLIPTextModel.from_pretrained(hub / "text_encoder"),
        CLIPTextModelWithProjection.from_pretrained(hub / "text_encoder_2"),
    )
    tokenizers = [AutoTokenizer.from_pretrained(hub / name) for name in ("tokenizer", "tokenizer_2")]
    pipeline = StableDiffusionXLPipeline(None, *networks, *tokenizers, None, None)
    pipeline.load_textual_inversion({"<toy>": learnt["clip_l"]}, tokenizer=pipeline.tokenizer, text_encoder=pipeline.text_encoder)
    pipeline.load_textual_inversion(
        {"<toy>": learnt["clip_g"]}, tokenizer=pipeline.tokenizer_2, text_encoder=pipeline.text_encoder_2
    )
    conditioner = sdxl(*(read_encoder(str(hub / n)) for n in ("text_encoder", "text_encoder_2"))).build()
    assert textual_inversion(model_of(conditioner), tmp_path / "whatever.safetensors", "<toy>") == ("<toy>",)
    with torch.no_grad():
        tokens, _, vector, _ = pipeline.encode_prompt(PROMPTS[:2], device=torch.device("cpu"), do_classifier_free_guidance=False)
    close(told(conditioner, *PROMPTS[:2])["tokens"], tokens)
    close(told(conditioner, *PROMPTS[:2])["vector"], vector)
    save_file({"<one>": vectors(24), "<two>": vectors(2, 16)}, tmp_path / "both.safetensors")
    with pytest.warns(UserWarning, match="alone"):
        assert set(textual_inversion(model_of(conditioner), tmp_path / "both.safetensors")) == {"<one>", "<two>"}
    first, second = (e for n, e in encoders_of(conditioner).items() if n.startswith("text_encoder"))
    assert "<two>" in first.opened.tokenizer.get_vocab()
    assert "<one>" in second.opened.tokenizer.get_vocab()


def test_a_word_that_one_of_several_encoders_learns(hub: Path, tmp_path: Path) -> None:
    """Of Stable Diffusion 1 beside SDXL, a warning; of a file for each encoder, as diffusers' training writes, at the first."""
    conditioner = sdxl(*(read_encoder(str(hub / n)) for n in ("text_encoder", "text_encoder_2"))).build()
    save_file({"emb_params": vectors(2, 16)}, tmp_path / "easy.safetensors")
    with pytest.warns(
        UserWarning, match=r"easy.safetensors: 'easy' is learnt by text_encoder alone; to text_encoder_2 it is letters"
    ):
        textual_inversion(model_of(conditioner), tmp_path / "easy.safetensors")
    for name, width in (("learned_embeds", 24), ("learned_embeds_2", 16)):
        save_file({"<toy>": vectors(width)}, tmp_path / f"{name}.safetensors")
    with pytest.warns(UserWarning, match=r"'<toy>' is learnt by text_encoder_2 alone; to text_encoder it is letters"):
        textual_inversion(model_of(conditioner), tmp_path / "learned_embeds.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        textual_inversion(model_of(conditioner), tmp_path / "learned_embeds_2.safetensors")


def test_the_vector_is_still_the_end_token_where_the_end_is_known_as_the_largest_number(hub: Path, tmp_path: Path) -> None:
    """As in the published configurations, eos_token_id 2: a new word's number is larger, and transformers takes it for the end.
    The oracle: a new word with the embedding of an old one means the same."""
    folder = shutil.copytree(hub / "text_encoder", tmp_path / "text_encoder")
    shutil.copytree(hub / "tokenizer", tmp_path / "tokenizer")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 2}))
    ours = read_encoder(str(folder)).build()
    assert isinstance(ours, CLIPText)
    table = ours.opened.network.get_input_embeddings().weight
    (cat,) = ours._ids("cat")
    save_file({"<new>": table[cat].clone()}, tmp_path / "new.safetensors")
    expected = told(ours, "a cat red")
    textual_inversion(model_of(ours), tmp_path / "new.safetensors")
    for entry in ("tokens", "vector"):
        close(told(ours, "a <new> red")[entry], expected[entry])


def test_words_of_t5(hub: Path, tmp_path: Path) -> None:
    ours = read_encoder(str(hub / "t5")).build()
    table = ours.opened.network.get_input_embeddings().weight
    (cat,) = ours._ids("cat")
    save_file({"t5": table[cat].clone()}, tmp_path / "<new>.safetensors")
    expected = told(ours, "cat")["tokens"]
    textual_inversion(model_of(ours), tmp_path / "<new>.safetensors")
    close(told(ours, "<new>")["tokens"], expected)


def test_words_in_a_lora(hub: Path, tmp_path: Path) -> None:
    """As OneTrainer writes them: the LoRA is read without them, and says so; the words are learnt of the same file."""
    theirs, ours = networks("SDXL")
    some = pairs(theirs, r"attn2\.to")
    words = {"<toy>.clip_l": vectors(2, 16), "<toy>.clip_g": vectors(2, 24), "v1.0.clip_l": vectors(1, 16, seed=1)}
    both = written(tmp_path, kohya(some) | {f"bundle_emb.{k}": v for k, v in words.items()})
    conditioner = sdxl(*(read_encoder(str(hub / n)) for n in ("text_encoder", "text_encoder_2"))).build()
    model = lora_model(ours, conditioner)
    with pytest.warns(UserWarning, match=r"lora.safetensors: its learnt words \(<toy>, v1.0\) are left aside; give it as an --emb"):
        low_rank(model, {both: 1.0})
    close(ours_says("SDXL", ours), theirs_says("SDXL", merged(theirs, some, 2 / 3)))
    with pytest.raises(InputError, match="holds 2 words; one name cannot be given to all"):
        textual_inversion(model, both, "<cat>")
    assert set(textual_inversion(model, both)) == {"<toy>", "v1.0"}
    for name, key, learnt in (
        ("text_encoder", "<toy>", words["<toy>.clip_l"]),
        ("text_encoder_2", "<toy>", words["<toy>.clip_g"]),
        ("text_encoder", "v1.0", words["v1.0.clip_l"]),
    ):
        encoder = encoders_of(conditioner)[name]
        assert isinstance(encoder, CLIPText)
        ids = ids_of(encoder, key)
        assert torch.equal(encoder.opened.network.get_input_embeddings().weight[ids], learnt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low_rank(model, {both: 1.0})
    low_rank(model, {})
    alone = {"bundle_emb.toy.string_to_param.*": vectors(2, 16)}
    with pytest.raises(InputError, match="holds no tensors of a LoRA, but a textual inversion: --embedding"):
        low_rank(model, {written(tmp_path, alone, "alone"): 1.0})
    assert textual_inversion(model, tmp_path / "alone.safetensors") == ("toy",)
    for name, key in (("answers", "clip_l_out"), ("bundled", "bundle_emb.other.clip_l_out")):
        with pytest.raises(InputError, match="'clip_l_out' takes the place of what a text encoder answers"):
            textual_inversion(model, written(tmp_path, {key: vectors(2, 16)}, name))


def test_what_is_refused(hub: Path, tmp_path: Path) -> None:
    ours = read_encoder(str(hub / "text_encoder")).build()
    for name, tensors, message in (
        ("wide", {"<toy>": vectors(2, 24)}, r"'<toy>' \(2, 24\) fits no text encoder of this model, of width 16"),
        ("xl", {"clip_g": vectors(2, 24)}, r"'clip_g' \(2, 24\) fits no text encoder"),
        ("known", {"cat</w>": vectors(16)}, "knows 'cat</w>' already; give it another word"),
        ("none", {}, "holds no words"),
        ("picture", {"<toy>": vectors(2, 3, 16)}, "fits no text encoder"),
    ):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(InputError, match=message):
            textual_inversion(model_of(ours), tmp_path / f"{name}.safetensors")
    save_file({"<a>": vectors(16), "<b>": vectors(16)}, tmp_path / "two.safetensors")
    with pytest.raises(InputError, match="holds 2 words; one name cannot be given to all"):
        textual_inversion(model_of(ours), tmp_path / "two.safetensors", "<c>")
    with pytest.raises(InputError, match="a pickle, which runs code when it is read; convert it"):
        textual_inversion(model_of(ours), tmp_path / "learned_embeds.bin")
    with pytest.raises(InputError, match="no text encoder that could learn a word"):
        textual_inversion(model_of(UnconditionalConfig().build()), tmp_path / "two.safetensors")
    textual_inversion(model_of(ours), tmp_path / "two.safetensors")
    with pytest.raises(InputError, match="knows '<a>' already"):
        textual_inversion(model_of(ours), tmp_path / "two.safetensors")
