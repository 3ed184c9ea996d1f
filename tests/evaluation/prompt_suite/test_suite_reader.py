"""The reader: lines are cut as another library cuts them, words are read off as the rule says."""

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import nn

from unnoise.evaluation.prompt_suite import reader as r
from unnoise.networks.detection import ReadingNetwork


def test_lines_are_cut_as_scipy_interpolates():
    """Twice as wide as they were, their last column repeated to the right; too long ones squeezed."""
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(2, 3, 64, 64)).astype(np.float32)
    boxes = torch.tensor([[0.2, 0.3, 0.5, 0.6], [0.02, 0.5, 0.98, 0.7]])
    lines = r._lines(torch.from_numpy(pictures), boxes).numpy()
    for i, (x0, y0, x1, y1) in enumerate(boxes.double().numpy() * 64 + [-2, -2, 2, 2]):  # with two pixels around them
        length = max(x1 - x0, (y1 - y0) * 128 / 24 / 2)
        x = np.minimum(x0 + length * (np.arange(128) + 0.5) / 128, x1) - 0.5
        y = y0 + (y1 - y0) * (np.arange(24) + 0.5) / 24 - 0.5
        for c in range(3):
            want = map_coordinates(pictures[i, c], np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")
            np.testing.assert_allclose(lines[i, c], want, atol=1e-4)


def test_words_are_read_off_columns():
    """Repeats once, blanks left out, double letters where a blank parts them."""
    columns = ["-HHEE-LL-LLO-", "-------------", "AAAAAAAAAAAAA", "A-A-ABBB-B---"]

    class Saying(nn.Module):
        def __init__(self):
            super().__init__()
            self.anywhere = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            symbols = [[r.LETTERS.find(s) + 1 for s in line] for line in columns]
            return nn.functional.one_hot(torch.tensor(symbols), 27).float()

    pictures, box = np.zeros((4, 64, 64, 3), np.uint8), (0.1, 0.1, 0.9, 0.4)
    assert r.Reader("saying", Saying()).words(pictures, [box] * 4) == ["HELLO", "", "A", "AAABB"]


def test_a_reader_learns_and_is_found_again(tmp_path):
    made = r.train_reader(tmp_path, pictures=4, steps=2, batch=2)
    again = r.train_reader(tmp_path, pictures=4, steps=2, batch=2)
    assert made.name == again.name
    assert again.network.training is False
    assert not any(p.requires_grad for p in again.network.parameters())


def test_the_network_never_mixes_lines():
    torch.manual_seed(0)
    network, x = ReadingNetwork(26, 8).eval(), torch.randn(3, 3, 24, 128)
    with torch.no_grad():
        assert network(x).shape == (3, 64, 27)
        assert torch.allclose(network(x)[2:], network(x[2:]), atol=1e-5)
