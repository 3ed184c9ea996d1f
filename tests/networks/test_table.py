"""The table networks' own promises; the rest is in the contract suite."""

import torch

from unnoise.networks.table import ColumnsIn, ColumnsOut, TableTransformerConfig


def test_every_column_has_its_own_linear_map() -> None:
    torch.manual_seed(0)
    columns_in, columns_out = ColumnsIn(3, 4, 8), ColumnsOut(3, 5, 8)
    torch.nn.init.normal_(columns_out.weight)
    x = torch.randn(2, 3, 4)
    h = columns_in(x)
    out = columns_out(h)
    for c in range(3):
        expected = x[:, c] @ columns_in.weight[c] + columns_in.bias[c]
        torch.testing.assert_close(h[:, c], expected, rtol=1e-5, atol=1e-5)
        expected = h[:, c] @ columns_out.weight[c] / 8**0.5 + columns_out.bias[c]
        torch.testing.assert_close(out[:, c], expected, rtol=1e-5, atol=1e-5)


def test_columns_see_each_other() -> None:
    """Changing one column changes what is said of the others, once the blocks have left the identity."""
    torch.manual_seed(0)
    network = TableTransformerConfig({"a": (2, 0, 0), "b": (1, 3, 3)}, 16, 2, 2).build()
    with torch.no_grad():
        for p in network.parameters():
            if not p.any():
                p.add_(torch.randn_like(p))
    x = {"a": torch.randn(4, 2), "b": torch.randn(4, 1, 3)}
    changed = x | {"a": x["a"] + torch.tensor([1.0, 0.0])}
    before, after = (network(v, torch.zeros(4), {}) for v in (x, changed))
    assert bool(((before["b"] - after["b"]).abs().amax((1, 2)) > 1e-4).all())
    assert bool(((before["a"] - after["a"])[:, 1].abs() > 1e-4).all())
