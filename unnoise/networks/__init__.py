"""Plain nn.Modules, ignorant of diffusion: U-Net, diffusion transformer, table networks, text encoder."""
