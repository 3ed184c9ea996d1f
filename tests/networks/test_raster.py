"""Coverage and layers against a painter that goes through cells and slots one by one."""

import numpy as np
import torch

from unnoise.networks.raster import TEXELS, Raster, RasterConfig, cover, layers, places, texels


def boxes(n: int, k: int, seed: int = 0) -> torch.Tensor:
    corners = torch.rand(n, k, 2, 2, generator=torch.Generator().manual_seed(seed)).sort(2).values
    return corners.flatten(2)  # x0, y0, x1, y1


def test_cover_is_the_area_of_every_cell_that_lies_in_the_box() -> None:
    """Counted on points that stand 200 times as dense along each side."""
    box, fine = boxes(1, 4), 200
    covered = cover(box, (3, 5))[0]
    y, x = np.meshgrid((np.arange(3 * fine) + 0.5) / (3 * fine), (np.arange(5 * fine) + 0.5) / (5 * fine), indexing="ij")
    for k, (x0, y0, x1, y1) in enumerate(box[0].tolist()):
        inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        share = inside.reshape(3, fine, 5, fine).mean((1, 3))
        assert np.abs(covered[k].numpy() - share).max() < 2.5 / fine


def test_layers_are_what_a_painter_leaves_on_top_and_below_it() -> None:
    grid = (boxes(6, 5) * 8).round() / 8  # whole cells: every slot shows fully or not at all
    covered = cover(grid, (8, 8)).round()
    front, behind = layers(covered)
    for b in range(6):
        for r in range(8):
            for c in range(8):
                there = [k for k in range(5) if covered[b, k, r, c] == 1]  # nearest first
                for layer, place in ((front, 0), (behind, 1)):
                    expected = torch.zeros(5)
                    if len(there) > place:
                        expected[there[place]] = 1
                    assert torch.equal(layer[b, :, r, c], expected)


def test_what_layers_show_is_never_more_than_the_whole_cell() -> None:
    covered = cover(boxes(3, 6, 1), (7, 4))
    front, behind = layers(covered)
    assert torch.allclose(front.sum(1), 1 - (1 - covered).prod(1), atol=1e-6)  # Porter & Duff's coverage of a union
    assert bool((behind <= covered - front + 1e-6).all())


def test_textures_are_read_as_pictures_are_resampled() -> None:
    """torch's own bilinear sampling, on a grid of the places within a box."""
    texture = torch.randn(1, 3, TEXELS, TEXELS)
    start, end = torch.tensor([[0.2]]), torch.tensor([[0.9]])
    across, down = places(start, end, 24), places(start, end, 16)
    read = torch.einsum("bcij,bkwj,bkhi->bchw", texture, texels(across), texels(down))
    grid = torch.stack(torch.meshgrid(down[0, 0], across[0, 0], indexing="ij")[::-1], -1)[None]
    expected = torch.nn.functional.grid_sample(texture, grid, padding_mode="border", align_corners=False)
    assert torch.allclose(read, expected, atol=1e-5)
    inside = (across > -1) & (across < 1)
    centres = (torch.arange(24) + 0.5) / 24
    assert torch.allclose(across[inside], ((centres - 0.55) / 0.35)[inside[0, 0]], atol=1e-5)


def raster() -> Raster:
    torch.manual_seed(0)
    return RasterConfig(
        kinds=4, palette=((0.0, 0.0, 0.0), (1.0, -1.0, -1.0), (0.2, 0.4, 0.9)), channels=5, extra=2, width=6, hidden=12
    ).build()


def slots(*rows: tuple[int, int, tuple[float, float, float, float]]) -> dict[str, torch.Tensor]:
    kind, colour, box = zip(*rows)
    return {"kind": torch.tensor([kind]), "colour": torch.tensor([colour]), "box": torch.tensor([box])}


def test_the_picture_moves_with_its_boxes() -> None:
    """A function of the place within the box: moved by 3 cells to the right and 2 down, it is the same picture."""
    extra = torch.zeros(1, 2, 16, 16)
    here = raster()(slots((2, 1, (0.1, 0.2, 0.43, 0.5)), (3, 0, (0.3, 0.1, 0.6, 0.4))), extra, (16, 16))
    dx, dy = 3 / 16, 2 / 16
    moved = slots((2, 1, (0.1 + dx, 0.2 + dy, 0.43 + dx, 0.5 + dy)), (3, 0, (0.3 + dx, 0.1 + dy, 0.6 + dx, 0.4 + dy)))
    there = raster()(moved, extra, (16, 16))
    assert torch.allclose(there[..., 2:, 3:], here[..., :-2, :-3], atol=1e-4)


def test_empty_slots_and_what_lies_outside_the_boxes_say_nothing() -> None:
    extra = torch.randn(1, 2, 8, 8)
    nothing = raster()(slots((0, 0, (0.0, 0.0, 1.0, 1.0))), extra, (8, 8))
    one = raster()(slots((1, 2, (0.0, 0.0, 0.5, 0.5)), (0, 1, (0.0, 0.0, 1.0, 1.0))), extra, (8, 8))
    assert torch.allclose(nothing[..., 4:], one[..., 4:], atol=1e-6)
    assert not torch.allclose(nothing[..., :4, :4], one[..., :4, :4], atol=1e-2)
    assert torch.equal(one[:, -2:], extra)


def test_touching_boxes_are_not_one_box() -> None:
    extra = torch.zeros(1, 2, 8, 8)
    two = raster()(slots((1, 1, (0.0, 0.0, 0.5, 1.0)), (1, 1, (0.5, 0.0, 1.0, 1.0))), extra, (8, 8))
    assert torch.allclose(two[..., :4], two[..., 4:], atol=1e-4)  # each half is a whole of its kind
    one = raster()(slots((1, 1, (0.0, 0.0, 1.0, 1.0))), extra, (8, 8))
    assert not torch.allclose(two, one, atol=1e-2)


def test_what_is_hidden_is_still_told() -> None:
    extra = torch.zeros(1, 2, 8, 8)
    hidden = (1, 1, (0.0, 0.0, 1.0, 1.0))
    before = (2, 2, (0.25, 0.25, 0.75, 0.75))
    with_it = raster()(slots(before, hidden), extra, (8, 8))[..., 3:5, 3:5]
    without = raster()(slots(before), extra, (8, 8))[..., 3:5, 3:5]
    assert not torch.allclose(with_it, without, atol=1e-2)


def test_what_is_transparent_is_seen_past() -> None:
    """A kind of no opacity before another is as if it were not there; of full opacity, it hides what stays told behind it."""
    two = slots((1, 1, (0.2, 0.2, 0.8, 0.8)), (2, 2, (0.1, 0.1, 0.9, 0.9)))
    alone = slots((2, 2, (0.1, 0.1, 0.9, 0.9)))
    network, extra = raster(), torch.zeros(1, 2, 12, 12)
    with torch.no_grad():
        network.texture[1, -1] = -40.0
        torch.testing.assert_close(network(two, extra, (12, 12)), network(alone, extra, (12, 12)))
        network.texture[1:3, -1] = 40.0
        hidden, other = network(two, extra, (12, 12)), network(alone, extra, (12, 12))
    assert float((hidden - other)[..., 4:8, 4:8].abs().max()) > 1e-3
    torch.testing.assert_close(hidden[..., :2, :], other[..., :2, :])
