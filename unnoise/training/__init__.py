"""The training loop, EMA, optimisers, distribution, resume. Knows a Task, no diffusion mathematics."""
