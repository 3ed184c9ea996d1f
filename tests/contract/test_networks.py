"""One suite over every network: what a process, a trainer and a server may rely on. A new network adds one line to NETWORKS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from unnoise.networks.embedding import Fourier
from unnoise.networks.flux import FluxConfig
from unnoise.networks.mp_unet import MPUNetConfig
from unnoise.networks.patched import PatchedConfig
from unnoise.networks.pixart import PixArtConfig
from unnoise.networks.sana import SanaConfig
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig
from unnoise.networks.table import TableNetworkConfig, TableTransformerConfig
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.networks.unet import UNetConfig

State = Tensor | dict[str, Tensor]
VECTOR, TOKEN, LENGTH, PICTURE = 6, 10, 7, 2
FIELDS = {"numeric": (3, 0, 0), "categorical": (2, 5, 4), "angle": (2, 2, 0)}


def picture(batch: int, size: tuple[int, int] = (11, 6)) -> Tensor:
    return torch.randn(batch, 3, *size)


def table(batch: int) -> dict[str, Tensor]:
    return {k: torch.randn(batch, d, s) if s else torch.randn(batch, d) for k, (d, s, _) in FIELDS.items()}


@dataclass(frozen=True)
class Case:
    config: object
    inputs: Callable[[int], State]
    words: bool
    pictured: bool = False
    summary: bool = True  # whether it reads `vector`


UNET = UNetConfig(3, None, 8, (1, 2), 1, (1,), (0, 1), VECTOR, TOKEN, head_dim=4, groups=4)
NETWORKS = {
    "unet": Case(UNET, picture, True),
    "unet, shift only": Case(replace(UNET, scale_shift=False), picture, True),
    "mp_unet": Case(MPUNetConfig(3, None, 8, (1, 2), 1, (1,), VECTOR, head_dim=4), picture, False),
    "transformer": Case(DiffusionTransformerConfig(3, 2, 16, 2, 2, 8, VECTOR, TOKEN), picture, True),
    "unet, picture": Case(replace(UNET, picture_channels=PICTURE), picture, True, True),
    "patched unet, picture": Case(PatchedConfig(replace(UNET, channels=12, picture_channels=4 * PICTURE), 2), picture, True, True),
    "mp_unet, picture": Case(
        MPUNetConfig(3, None, 8, (1, 2), 1, (1,), VECTOR, head_dim=4, picture_channels=PICTURE), picture, False, True
    ),
    "transformer, picture": Case(
        DiffusionTransformerConfig(3, 2, 16, 2, 2, 8, VECTOR, TOKEN, picture_channels=PICTURE), picture, True, True
    ),
    "sd_unet": Case(
        SDUNetConfig(3, (8, 16), 1, (0, 1), 1, (2, 4), VECTOR, TOKEN, groups=4, picture_channels=PICTURE, features=Fourier()),
        picture,
        True,
        True,
    ),
    "sd3": Case(
        SD3Config(3, 2, 16, 2, 2, VECTOR, TOKEN, True, (0,), positions=20, unit=8, picture_channels=PICTURE, features=Fourier()),
        picture,
        True,
        True,
    ),
    "flux": Case(
        FluxConfig(3, 2, 16, 1, 1, 2, (2, 2, 4), VECTOR, TOKEN, picture_channels=PICTURE, features=Fourier()), picture, True, True
    ),
    "pixart": Case(PixArtConfig(3, 2, 16, 2, 2, TOKEN, features=Fourier()), picture, True, summary=False),
    "sana": Case(SanaConfig(3, 1, 16, 2, 4, 2, 24, TOKEN, features=Fourier()), picture, True, summary=False),
    "table mlp": Case(TableNetworkConfig(FIELDS, 16, 2, 2, VECTOR), table, False),
    "table transformer": Case(TableTransformerConfig(FIELDS, 16, 2, 2, VECTOR), table, False),
}
PICTURES = [k for k, c in NETWORKS.items() if c.inputs is picture]
PICTURED = [k for k, c in NETWORKS.items() if c.pictured]
WORDS = [k for k, c in NETWORKS.items() if c.words]
everything = pytest.mark.parametrize("name", NETWORKS)


def build(name: str, *, perturb: bool = True) -> nn.Module:
    """The network, the same at every call; what starts at zero given random values, so that everything has an effect."""
    torch.manual_seed(0)
    network = NETWORKS[name].config.build()
    if perturb:
        with torch.no_grad():
            for p in network.parameters():
                if bool((p == p.flatten()[0]).all()):
                    p.add_(0.3 * torch.randn_like(p))
    return network


def condition(batch: int) -> dict[str, Tensor]:
    mask = torch.arange(LENGTH) < torch.arange(batch)[:, None] + 2  # row i has i + 2 tokens that count
    return {"vector": torch.randn(batch, VECTOR), "tokens": torch.randn(batch, LENGTH, TOKEN), "mask": mask}


def rows(x: State, which: slice) -> State:
    return x[which] if isinstance(x, Tensor) else {k: v[which] for k, v in x.items()}


def flat(x: State | Mapping[str, Tensor]) -> Tensor:
    """(B, everything)."""
    parts = [x] if isinstance(x, Tensor) else [x[k] for k in sorted(x)]
    return torch.cat([p.flatten(1) for p in parts], 1)


def arguments(name: str, batch: int = 3) -> tuple[State, Tensor, dict[str, Tensor]]:
    torch.manual_seed(1)
    x, level, cond = NETWORKS[name].inputs(batch), torch.randn(batch), condition(batch)
    if NETWORKS[name].pictured and isinstance(x, Tensor):
        cond["picture"] = torch.randn(batch, PICTURE, *x.shape[2:])
    return x, level, cond


@everything
def test_the_same_seed_builds_the_same_network(name: str) -> None:
    a, b = build(name, perturb=False).state_dict(), build(name, perturb=False).state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@everything
def test_a_new_network_gives_zero(name: str) -> None:
    """The preconditioner's skip is then all there is: the best guess before any training."""
    assert not flat(build(name, perturb=False)(*arguments(name))).any()


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (7, 13), (2, 33)])
def test_pictures_of_any_size(name: str, size: tuple[int, int]) -> None:
    x = picture(2, size)
    out = build(name)(x, torch.zeros(2), condition(2))
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert bool(out.any())


@pytest.mark.parametrize("name", ["table mlp", "table transformer"])
def test_fields_come_out_as_the_configuration_says(name: str) -> None:
    x, level, cond = arguments(name)
    assert {k: tuple(v.shape) for k, v in build(name)(x, level, cond).items()} == {
        "numeric": (3, 3),
        "categorical": (3, 2, 4),
        "angle": (3, 2),
    }


@pytest.mark.parametrize("name", ["table mlp", "table transformer"])
def test_the_order_of_the_fields_means_nothing(name: str) -> None:
    x, level, cond = arguments(name)
    network = build(name)
    other = replace(NETWORKS[name].config, fields=dict(reversed(FIELDS.items()))).build()
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(flat(other(dict(reversed(x.items())), level, cond)), flat(network(x, level, cond)))


@everything
def test_rows_are_independent(name: str) -> None:
    x, level, cond = arguments(name)
    network = build(name).eval()
    whole = flat(network(x, level, cond))
    for i in range(3):
        one = slice(i, i + 1)
        alone = flat(network(rows(x, one), level[one], {k: v[one] for k, v in cond.items()}))
        torch.testing.assert_close(alone, whole[one], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", WORDS)
def test_masked_tokens_have_no_influence(name: str) -> None:
    x, level, cond = arguments(name)
    network = build(name)
    garbage = torch.where(cond["mask"][..., None], cond["tokens"], float("nan"))
    assert torch.equal(network(x, level, cond), network(x, level, cond | {"tokens": garbage}))


@pytest.mark.parametrize("name", WORDS)
def test_all_tokens_masked_is_no_tokens_and_padding_is_nothing(name: str) -> None:
    x, level, cond = arguments(name)
    network = build(name)
    nothing = network(x, level, cond | {"mask": torch.zeros_like(cond["mask"])})
    absent = network(x, level, {k: v for k, v in cond.items() if k != "mask"} | {"tokens": torch.zeros(3, 0, TOKEN)})
    torch.testing.assert_close(nothing, absent, rtol=1e-5, atol=1e-5)
    longer = cond | {
        "tokens": torch.nn.functional.pad(cond["tokens"], (0, 0, 0, 5)),
        "mask": torch.nn.functional.pad(cond["mask"], (0, 5)),
    }
    torch.testing.assert_close(network(x, level, longer), network(x, level, cond), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PICTURED)
def test_a_picture_that_is_absent_is_one_of_zeros(name: str) -> None:
    x, level, cond = arguments(name)
    network = build(name)
    without = network(x, level, {k: v for k, v in cond.items() if k != "picture"})
    torch.testing.assert_close(network(x, level, cond | {"picture": torch.zeros_like(cond["picture"])}), without)


@pytest.mark.parametrize("name", PICTURED)
def test_a_picture_lies_where_the_state_lies(name: str) -> None:
    """Before anything mixes positions: the gradient of the first features' centre pixel reaches the picture as it reaches x."""
    x, level, cond = arguments(name)
    network = build(name)
    x, condition_picture = x.requires_grad_(), cond["picture"].requires_grad_()
    reached: list[Tensor] = []

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        h = inputs[0] if inputs[0].ndim == 4 else inputs[0].unflatten(1, (-1, x.shape[3] // 2)).permute(0, 3, 1, 2)
        centre = h[:, :, h.shape[2] // 2, h.shape[3] // 2].square().sum()
        reached.extend(g.abs().sum((0, 1)) > 0 for g in torch.autograd.grad(centre, [x, condition_picture], retain_graph=True))

    blocks = next(m for m in network.modules() if isinstance(m, nn.ModuleList))
    handle = blocks[0].register_forward_pre_hook(look)
    network(x, level, cond | {"picture": condition_picture})
    handle.remove()
    assert bool(reached[0].any())
    assert torch.equal(reached[0], reached[1])


@everything
def test_every_input_has_influence(name: str) -> None:
    x, level, cond = arguments(name)
    network = build(name)
    before = flat(network(x, level, cond))
    changes = [(level + 0.5, cond)]
    if NETWORKS[name].summary:
        changes.append((level, cond | {"vector": cond["vector"] + 1}))
    if NETWORKS[name].words:
        changes += [(level, cond | {"tokens": cond["tokens"] + 1}), (level, cond | {"mask": ~cond["mask"]})]
    if NETWORKS[name].pictured:
        changes.append((level, cond | {"picture": cond["picture"] + 1}))
    for changed_level, changed in changes:
        difference = (flat(network(x, changed_level, changed)) - before).abs().amax(1)
        assert bool((difference > 1e-4).all())


@everything
def test_gradients_reach_every_parameter(name: str) -> None:
    network = build(name)
    flat(network(*arguments(name))).square().sum().backward()
    missing = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


@everything
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """Along one random direction in the space of all parameters: a central difference in float64, error O(h^2)."""
    network = build(name).double()
    x, level, cond = arguments(name)
    x = x.double() if isinstance(x, Tensor) else {k: v.double() for k, v in x.items()}
    cond = {k: v.double() if v.is_floating_point() else v for k, v in cond.items()}
    parameters = dict(network.named_parameters())
    direction = {k: torch.randn_like(p) for k, p in parameters.items()}

    def loss(step: float) -> Tensor:
        moved = {k: p + step * direction[k] for k, p in parameters.items()}
        return flat(torch.func.functional_call(network, moved, (x, level, cond))).square().mean()

    gradient = torch.autograd.grad(loss(0.0), list(parameters.values()))
    slope = sum(float((g * direction[k]).sum()) for k, g in zip(parameters, gradient))
    h = 2e-5
    with torch.no_grad():
        assert slope == pytest.approx(float(loss(h) - loss(-h)) / (2 * h), rel=1e-4)


@everything
def test_forward_mode_agrees_with_finite_differences(name: str) -> None:
    """Few-call objectives differentiate through the input and the noise level (jvp of a functional call)."""
    network = build(name).double().to(memory_format=torch.channels_last)
    x, level, cond = arguments(name)
    cond = {k: v.double() if v.is_floating_point() else v for k, v in cond.items()}
    names = [] if isinstance(x, Tensor) else sorted(x)
    leaves = tuple(t.double() for t in ([x] if isinstance(x, Tensor) else [x[k] for k in names]))

    def f(level: Tensor, *leaves: Tensor) -> Tensor:
        return flat(network(dict(zip(names, leaves)) if names else leaves[0], level, cond))

    inputs = (level.double(), *leaves)
    tangents = tuple(torch.randn_like(i) for i in inputs)
    h = 1e-6
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, tangent = torch.func.jvp(f, inputs, tangents)
        plus, minus = (f(*(i + sign * h * t for i, t in zip(inputs, tangents))) for sign in (1, -1))
    torch.testing.assert_close(tangent, (plus - minus) / (2 * h), rtol=1e-4, atol=1e-6)


@everything
def test_checkpointing_changes_nothing(name: str) -> None:
    network = build(name)
    results = []
    for network.checkpointing in (False, True):
        network.zero_grad()
        out = flat(network(*arguments(name)))
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad for p in network.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results))


@everything
def test_bfloat16_agrees_with_float32(name: str) -> None:
    """Autocast, and weights in bfloat16, within 5 % (L2): some ten roundings of 2^-9 one after another, random in sign."""
    network = build(name).eval().to(memory_format=torch.channels_last)
    inputs = arguments(name)
    with torch.no_grad():
        exact = flat(network(*inputs))
        with torch.autocast("cpu", torch.bfloat16):
            autocast = flat(network(*inputs))
        pure = flat(network.bfloat16()(*inputs))
    for out in (autocast, pure):
        assert out.dtype == exact.dtype
        assert float((out - exact).norm() / exact.norm()) < 0.05


@everything
def test_it_compiles_into_one_graph(name: str) -> None:
    """No branch of the network depends on data (the tracer alone; no code is generated)."""
    network = build(name)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(flat(compiled(*arguments(name))), flat(network(*arguments(name))), rtol=1e-5, atol=1e-5)
