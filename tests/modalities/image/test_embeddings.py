"""Pictures as embeddings: the two ends agree, the tower stays as it is, and what is of another tower is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import normalize

from unnoise.control.asking import in_stages, prepared
from unnoise.core.codec import UnconditionalConfig
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.modalities.conditioning import TextConfig
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.embeddings import EmbeddedConfig, EmbeddingsConfig, seen
from unnoise.modalities.image.enlarging import EnlargingConfig
from unnoise.modalities.words.syntax import escaped
from unnoise.networks.contrastive import PictureTowerConfig
from unnoise.networks.text import TextEncoderConfig

TOWER = PictureTowerConfig(8, 8, 1, dim=6, features=16)


def pixels(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)


def test_states_have_unit_mean_square_and_decode_to_the_towers_vectors() -> None:
    torch.manual_seed(0)
    codec = EmbeddingsConfig(TOWER).build().train()
    state = codec.encode(pixels(5))
    assert state.shape == (5, *codec.shape()) == (5, 1, 6)
    torch.testing.assert_close(state.square().mean((1, 2)), torch.ones(5))
    expected = codec.look.tower.eval()(seen(torch.from_numpy(pixels(5)), TOWER))
    torch.testing.assert_close(codec.decode(3 * state), expected)


def test_training_leaves_the_tower_alone() -> None:
    torch.manual_seed(1)
    conditioner = EmbeddedConfig(UnconditionalConfig(), TOWER, 4, withheld=0.0).build().train()
    before = {k: v.clone() for k, v in conditioner.look.state_dict().items()}
    told = conditioner({**conditioner.prepare([None] * 5), **conditioner.from_data(pixels(5), Streams.of(0, 5))})
    told["vector"].square().sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in conditioner.look.state_dict().items())
    assert [k for k, p in conditioner.named_parameters() if p.grad is not None] == ["told.weight", "told.bias"]


def test_what_a_prior_makes_is_what_the_decoder_learned_from() -> None:
    torch.manual_seed(2)
    codec = EmbeddingsConfig(TOWER).build()
    conditioner = EmbeddedConfig(UnconditionalConfig(), TOWER, 4, withheld=0.3).build()
    conditioner.look.load_state_dict(codec.look.state_dict())
    conditioner.follows(codec)
    n, rng = 200, Streams.of(3, 200)
    given = conditioner.from_data(pixels(n), rng)["embedding"]
    withheld = rng.uniform("withheld") < 0.3
    made = conditioner.from_made(codec.decode(codec.encode(pixels(n))), rng)["embedding"]
    torch.testing.assert_close(given, made.masked_fill(withheld[:, None], 0))
    assert (given[withheld] == conditioner.prepare([None])["embedding"]).all()
    assert conditioner.kept({"embedding": given}) == {}  # guidance leads to it


def test_embeddings_of_another_network_and_pictures_are_refused() -> None:
    conditioner = EmbeddedConfig(UnconditionalConfig(), TOWER, 4).build()
    with pytest.raises(InputError, match="those of"):
        conditioner.follows(EmbeddingsConfig(TOWER).build())
    with pytest.raises(InputError, match="what Pixels decodes"):
        conditioner.follows(PixelsConfig(8, 8, 1).build())
    with pytest.raises(InputError, match="share of the pictures"):
        EmbeddedConfig(UnconditionalConfig(), TOWER, withheld=2.0)


def test_written_with_what_they_were_made_from(tmp_path: Path) -> None:
    codec, rows = EmbeddingsConfig(TOWER).build(), [{"prompt": "ein Apfel"}, {"prompt": None}]
    vectors = normalize(torch.randn(2, 6), dim=-1)
    (file,) = codec.write(vectors, tmp_path, rows)
    with safe_open(file, "pt") as f:
        torch.testing.assert_close(f.get_tensor("embeddings"), vectors)
        assert json.loads(f.metadata()["rows"]) == rows


WORDS = TextConfig.of(["red apple", "blue pear"], TextEncoderConfig(width=12, depth=1, heads=2, buckets=32))


@pytest.mark.parametrize(
    "config",
    [EmbeddedConfig(WORDS, TOWER, 4, 12), EnlargingConfig(WORDS, PixelsConfig(8, 8, 1), 2, dim=4, inner_dim=12)],
    ids=["decoder", "enlarger"],
)
def test_prompts_are_read_as_the_words_within_read_them(config: EmbeddedConfig | EnlargingConfig) -> None:
    """A weight multiplies the tokens of its word and no other; brackets and changes are no words, escaped ones are."""
    torch.manual_seed(0)
    conditioner, rng = config.build().eval(), Streams.of(0, 1)

    def told(prompt: str, step: int = 0) -> dict[str, torch.Tensor]:
        said = [s for first, s, _ in in_stages(conditioner, [prompt], None, 10) if first <= step][-1]
        return conditioner(prepared(conditioner, said, rng))

    plain, weighted = told("red apple"), told("(red:1.5) apple")
    share = torch.tensor([1.5, 1.0, 1.0])[:, None]  # red, apple, the end
    torch.testing.assert_close(weighted["tokens"][0, :3], plain["tokens"][0, :3] * share)
    assert torch.equal(weighted["mask"], plain["mask"])
    assert not torch.equal(weighted["vector"], plain["vector"])
    for step, same in ((3, "red"), (4, "blue")):
        torch.testing.assert_close(told("[red:blue:0.4] apple", step)["tokens"], told(f"{same} apple")["tokens"])
    with pytest.raises(InputError, match=r"'\(\)', which no training caption has"):
        told(escaped("(red) apple"))
    with pytest.raises(InputError, match="never closed"):
        told("(red apple")
    trained = conditioner(conditioner.prepare(["red apple"]))  # captions are told as they stand
    torch.testing.assert_close(trained["tokens"], plain["tokens"])
