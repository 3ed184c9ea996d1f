"""One loss for two players, against the two losses written out and differentiated apart."""

import torch
from torch.nn.functional import softplus

from unnoise.core.adversarial import relativistic


def test_each_player_gets_the_gradient_of_its_own_loss() -> None:
    torch.manual_seed(0)
    critic = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()
    generator = torch.nn.Linear(3, 5).double()
    real, latent, gamma = torch.randn(7, 5).double(), torch.randn(7, 3).double(), 0.7

    def score(x: torch.Tensor) -> torch.Tensor:
        return critic(x)[:, 0]

    game = relativistic(score, real, generator(latent), gamma)
    ours = torch.autograd.grad(game.critic + game.generator, [*critic.parameters(), *generator.parameters()])

    generator_loss = softplus(score(real) - score(generator(latent))).mean()
    theirs_generator = torch.autograd.grad(generator_loss, list(generator.parameters()))
    fake = generator(latent).detach()
    penalty = real.new_zeros(())
    for x in (real.clone().requires_grad_(), fake.clone().requires_grad_()):
        for i in range(len(x)):  # row by row
            (slope,) = torch.autograd.grad(score(x)[i], x, create_graph=True)
            penalty = penalty + slope[i].square().sum() / len(x)
    critic_loss = softplus(score(fake) - score(real)).mean() + gamma / 2 * penalty
    theirs_critic = torch.autograd.grad(critic_loss, list(critic.parameters()))

    for a, b in zip(ours, [*theirs_critic, *theirs_generator]):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(game.critic, critic_loss)
    torch.testing.assert_close(game.generator, generator_loss)
    torch.testing.assert_close(game.lead, (score(real) - score(fake)).mean())
