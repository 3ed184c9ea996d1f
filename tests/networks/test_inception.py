"""Our Inception-v3 against torch-fidelity's own module, with random weights made by its class."""

import pytest
import torch
from fidelity import theirs
from torch import nn

from unnoise.networks.inception import Inception, resize


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Its network, weights at random and of a size that keeps signals alive through all layers, statistics included."""
    module = theirs("feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = module.FeatureExtractorInceptionV3("inception", ["2048"])
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if isinstance(layer, nn.BatchNorm2d):
                for values, low, high in [(layer.weight, 0.7, 1.3), (layer.bias, -0.2, 0.2)]:
                    nn.init.uniform_(values, low, high)
                layer.running_mean.uniform_(-0.2, 0.2)
                layer.running_var.uniform_(0.7, 1.3)
    return network


@pytest.fixture(scope="module")
def ours(network) -> nn.Module:
    ours = Inception().eval()
    missing, unexpected = ours.load_state_dict(network.state_dict(), strict=False)
    assert not missing
    assert set(unexpected) == {"fc.weight", "fc.bias"}
    return ours


@pytest.mark.parametrize("size", [(32, 32), (299, 299), (310, 75)])
def test_features_are_theirs(network, ours, size):
    x = torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        (want,) = network(x)
        got = ours(x)
    assert want.shape == (1, 2048)
    assert want.std() > 0.1 * want.abs().mean(), "features that hardly vary would test nothing"
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def test_resize_reads_pixel_i_at_i_times_the_scale():
    """TensorFlow 1's documented behaviour on a ramp of 4 made 8: 0, 0.5, ... 3, and the last pixel held."""
    ramp = torch.arange(4.0).expand(1, 1, 2, 4)
    want = torch.tensor([0, 0.5, 1, 1.5, 2, 2.5, 3, 3]).expand(1, 1, 2, 8)
    assert torch.equal(resize(ramp, 2, 8), want)
    assert torch.equal(resize(ramp.transpose(2, 3), 8, 2), want.transpose(2, 3))
