"""Gemma as Sana asks it, and T5 as PixArt does, against diffusers' pipelines."""

from pathlib import Path

import pytest
import torch
from diffusers import PixArtSigmaPipeline, SanaPipeline
from torch import Tensor
from transformers import AutoTokenizer, Gemma2Model, T5EncoderModel

from unnoise.core.errors import InputError
from unnoise.modalities.words.emphasis import Emphatic
from unnoise.modalities.words.frozen import T5TextConfig, read_encoder
from unnoise.modalities.words.gemma import read_gemma
from unnoise.modalities.words.joined import lower_case, pixart
from unnoise.modalities.words.syntax import Said, read

from . import encoders

PROMPTS = [" A red cat, hi! ", "cat", "", "a dog: one Hat\n"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    encoders.save_gemma(folder / "sana" / "text_encoder", 0)
    encoders.save_t5(folder / "pixart" / "text_encoder", 1)
    return folder


def sana(hub: Path) -> Emphatic:
    return read_gemma(str(hub / "sana" / "text_encoder")).build()


def masked(tokens: Tensor, mask: Tensor) -> list[Tensor]:
    """What each prompt is told, without the places that do not count."""
    return [t[m.bool()] for t, m in zip(tokens, mask)]


def close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_sana_as_diffusers_encodes_it(hub: Path) -> None:
    told = {"tokenizer": AutoTokenizer.from_pretrained(hub / "sana" / "tokenizer"), "vae": None, "transformer": None}
    pipeline = SanaPipeline(text_encoder=Gemma2Model.from_pretrained(hub / "sana" / "text_encoder"), scheduler=None, **told)
    instruction = SanaPipeline.__call__.__wrapped__.__defaults__[-1]
    with torch.no_grad():
        tokens, mask, none, no_mask = pipeline.encode_prompt(
            PROMPTS, negative_prompt=["", "Red", "", "a cat"], device=torch.device("cpu"), complex_human_instruction=instruction
        )
    conditioner = sana(hub)
    said = [Said.plain(p) for p in PROMPTS]
    cond = conditioner(conditioner.prepare_said(said))
    away = conditioner(conditioner.prepare_away([None, Said.plain("Red"), None, Said.plain("a cat")]))
    close(masked(cond["tokens"], cond["mask"]), masked(tokens, mask))
    close(masked(away["tokens"], away["mask"]), masked(none, no_mask))
    lengths = [int(m.sum()) for m in mask]
    assert lengths[1] == 2, "the start and one word: the instruction is not told"
    nothing = conditioner(conditioner.prepare_said([said[1], None]))
    close(masked(nothing["tokens"], nothing["mask"]), [masked(tokens, mask)[1], masked(none, no_mask)[0]])


def test_the_instruction_is_heard(hub: Path) -> None:
    conditioner = sana(hub)
    asked, plain = (f([Said.plain("a cat")])["tokens"][0] for f in (conditioner.prepare_said, conditioner.prepare_away))
    assert float((asked[-1] - plain[-1]).abs().max()) > 0.01


def test_weights_scale_the_words_of_a_prompt(hub: Path) -> None:
    conditioner = sana(hub)
    plain = conditioner.prepare_said([read("a red cat").at(0, 1)])["tokens"][0]
    weighted = conditioner.prepare_said([read("a red( cat:1.5)").at(0, 1)])["tokens"][0]
    close([weighted[:-1], weighted[-1]], [plain[:-1], 1.5 * plain[-1]])


def test_long_prompts_are_windows_each_with_the_instruction(hub: Path) -> None:
    conditioner = sana(hub)
    first, second = "cat" + " cat" * 298, "at" * 3
    whole = conditioner.prepare([f"{first} {second}", "cat"])
    parts = conditioner.prepare([first])["tokens"][0]
    assert parts.shape[0] == 300
    assert whole["tokens"].shape[1] > 300
    close([whole["tokens"][0, :300]], [parts])
    close([whole["tokens"][0, 300]], [parts[0]])


def test_pixart_as_diffusers_encodes_it(hub: Path) -> None:
    told = {"tokenizer": AutoTokenizer.from_pretrained(hub / "pixart" / "tokenizer"), "vae": None, "transformer": None}
    pipeline = PixArtSigmaPipeline(
        text_encoder=T5EncoderModel.from_pretrained(hub / "pixart" / "text_encoder"), scheduler=None, **told
    )
    prompts = [*PROMPTS, "A red cat, 1024x768 - free shipping (https://cats.com)"]
    with torch.no_grad():
        tokens, mask, none, no_mask = pipeline.encode_prompt(
            prompts, negative_prompt="Red, #1", device=torch.device("cpu"), clean_caption=True
        )
    t5 = read_encoder(str(hub / "pixart" / "text_encoder"))
    assert isinstance(t5, T5TextConfig)
    conditioner = pixart(t5).build()
    cond, away = conditioner(conditioner.prepare(prompts)), conditioner(conditioner.prepare_away([Said.plain("Red, #1")] * 5))
    close(masked(cond["tokens"], cond["mask"]), masked(tokens, mask))
    close(masked(away["tokens"], away["mask"]), masked(none, no_mask))


def test_lower_case_keeps_weights_and_spaces_within() -> None:
    said = Said(((("  ", 1.0), (" Red", 1.5), (" Cat ", 1.0), (" ", 0.5)), (("", 1.0),)))
    assert lower_case(said) == Said(((("red", 1.5), (" cat", 1.0)), (("", 1.0),)))


def test_another_encoder_is_refused(hub: Path) -> None:
    with pytest.raises(InputError, match="a t5, where Sana has a gemma2"):
        read_gemma(str(hub / "pixart" / "text_encoder"))
