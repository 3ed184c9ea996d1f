"""Tables through the whole of the nouns: read, encode, destroy, denoise, sample, decode."""

import math
from collections import Counter

import torch
from torch import Tensor

from unnoise.core.denoisers import NetworkDenoiser
from unnoise.core.losses import CategoricalBound, FieldLosses, SquaredError
from unnoise.core.objectives import Denoising
from unnoise.core.predictions import Fields, Logits, Mean, Prediction
from unnoise.core.random import Streams
from unnoise.core.state import Batch, State
from unnoise.core.times import LowDiscrepancy
from unnoise.core.weights import EDMWeight
from unnoise.modalities.table.examples import write_breast_cancer
from unnoise.modalities.table.likeness import column_shapes, mean_score, pair_trends
from unnoise.modalities.table.read import read_table
from unnoise.networks.table import TableNetworkConfig
from unnoise.samplers.ancestral import Ancestral
from unnoise.samplers.loop import sample


def uniform_times(steps: int) -> Tensor:
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def test_the_exact_denoiser_gives_back_the_rows_as_often_as_they_are(tmp_path):
    """Given rows (z_i, c_i), p(i | x_t) ~ N(x_t; alpha z_i, sigma^2) [c_t is masked or c_i]: the product's exact denoiser."""
    frequent = {("1.5", "a"): 40, ("5.25", "b"): 30, ("30.75", "a"): 20, ("30.75", "b"): 10}
    path = tmp_path / "t.csv"
    path.write_text("x,kind\n" + "".join(f"{x},{k}\n" * n for (x, k), n in frequent.items()))
    data = read_table(path)
    codec, process = data.config.build(), data.config.process()
    rows = codec.encode(data.table)
    one_each = [data.table.rows().index(row) for row in frequent]
    z, c = rows["numeric"][one_each].double(), rows["categorical"][one_each]
    prior = torch.tensor(list(frequent.values())).double().log()
    schedule, mask = process.fields["numeric"].schedule, process.fields["categorical"].largest

    def denoise(x: State, t: Tensor) -> Prediction:
        alpha, sigma = schedule.alpha(t)[:, None, None], schedule.sigma(t)[:, None, None]
        seen = (x["categorical"][:, None] == mask) | (x["categorical"][:, None] == c)
        far = ((x["numeric"].double()[:, None] - alpha * z) / sigma) ** 2
        w = (prior - (far / 2).sum(-1)).masked_fill(~seen.all(-1), -math.inf).softmax(1)  # (B, rows)
        kinds = torch.nn.functional.one_hot(c, mask).double()  # (rows, 1, K)
        return Fields({"numeric": Mean((w @ z).float()), "categorical": Logits((w @ kinds[:, 0]).log()[:, None])})

    n, steps = 1000, 100
    rng = Streams.of(0, n)
    x = sample(denoise, process, process.prior(codec.shape(), rng), uniform_times(steps), Ancestral(), rng.scoped("sampler"))
    got = Counter(codec.decode(x).rows())
    assert set(got) == set(frequent)  # no row that was not there, such as (1.5, b)
    for row, count in frequent.items():
        p = count / 100
        # binomial, 4.5 standard deviations, four rows: 3e-5; and what both fields lose by moving at once, of the order of a step
        assert abs(got[row] / n - p) < 4.5 * math.sqrt(p * (1 - p) / n) + 2 / steps


def test_a_trained_product_learns_how_columns_depend_on_each_other(tmp_path):
    data = read_table(write_breast_cancer(tmp_path / "patients.csv"))
    process, rows = data.config.process(), data.unconditional()
    torch.manual_seed(0)
    network = TableNetworkConfig(fields=data.config.network_fields(), width=128, depth=2).build()
    denoiser = NetworkDenoiser(network, process, data.config.preconditioner())
    losses = FieldLosses({"numeric": (SquaredError(EDMWeight(1.0)), 1.0), "categorical": (CategoricalBound(), 1.0)})
    objective = Denoising(losses, LowDiscrepancy())
    optimiser = torch.optim.AdamW(denoiser.parameters(), lr=3e-3)
    for step in range(100):
        rng = Streams.of(1, 128, first=128 * step)
        batch = rows.batch(torch.arange(128 * step, 128 * (step + 1)).remainder(len(rows)).tolist(), rng.scoped("data"))
        optimiser.zero_grad()
        objective(denoiser, Batch(batch["x"], batch["cond"]), rng)["loss"].backward()
        optimiser.step()

    def made(steps: int) -> State:
        rng = Streams.of(2, len(rows))
        x = process.prior(rows.codec.shape(), rng)
        return sample(lambda x_t, t: denoiser(x_t, t, {}), process, x, uniform_times(steps), Ancestral(), rng.scoped("sampler"))

    fake = rows.codec.decode(made(30))
    # What independent columns reach: the real ones, each shuffled by itself.
    order = Streams.of(3, 31).uniform("shuffle", (len(rows),)).argsort(1).T
    shuffled = rows.codec.encode(data.table)
    shuffled = {"numeric": shuffled["numeric"].gather(0, order[:, :30]), "categorical": shuffled["categorical"][order[:, 30]]}
    independent = rows.codec.decode(shuffled)
    assert mean_score(column_shapes(data.table, independent)) > 0.999
    gap = 1 - mean_score(pair_trends(data.table, independent))
    assert mean_score(column_shapes(data.table, fake)) > 0.9
    assert 1 - mean_score(pair_trends(data.table, fake)) < 0.4 * gap
