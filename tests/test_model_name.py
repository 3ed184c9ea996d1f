"""What a model is called in what it makes: hashed once, and another name after each of the library's ways to change its weights."""

from pathlib import Path

import torch
from tiny import tiny_model
from torch import nn

import unnoise
from unnoise.control.low_rank import Adapted, Adapter, LowRank, Place
from unnoise.core.hashing import tensors_hash
from unnoise.model import DiffusionModel


def true_name(model: DiffusionModel) -> str:
    return tensors_hash(model.parts.state_dict())[:16]


def test_two_calls_hash_once(counted: list[int]) -> None:
    model = tiny_model()
    names = [model.sample(seed=s, steps=1).settings["model_hash"] for s in (0, 1)]
    names.append(model.attached().sample(steps=1).settings["model_hash"])
    assert names == [true_name(model)] * 3
    assert len(counted) == 1


def test_merging_names_another_model_and_taking_out_the_first_again() -> None:
    model = tiny_model()
    network = model.denoiser.get_submodule("network")
    layer, linear = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear))
    change = LowRank(torch.ones(1, linear.in_features), torch.ones(linear.out_features, 1), 1e-3)
    adapted, names = Adapted.of(network), [model.hash()]
    adapted.set({"style": (Adapter([(Place(layer, 0, linear.out_features), change)]), 1.0)})
    for step in (adapted.merge, adapted.unmerge):
        step()
        names.append(model.hash())
        assert names[-1] == true_name(model)
    assert names[0] == names[2] != names[1]


def test_precision_loading_and_a_single_weight_name_other_models(tmp_path: Path) -> None:
    model = tiny_model()
    names = [model.hash()]
    model.save(tmp_path / "model")
    assert unnoise.load(tmp_path / "model").hash() == names[0]
    next(model.denoiser.parameters()).data.view(-1)[-1] += 1e-3
    names.append(model.hash())
    model.parts.load_state_dict(tiny_model(1).parts.state_dict())
    names.append(model.hash())
    model.parts.to(torch.bfloat16)
    names.append(model.hash())
    assert names[-1] == true_name(model)
    assert len(set(names)) == 4
