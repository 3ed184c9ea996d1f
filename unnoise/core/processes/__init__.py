"""Processes: how one kind of data is destroyed, and the exact way back given the data."""

from unnoise.core.processes.base import Corrupted, Process
from unnoise.core.processes.categorical import Masked, UniformCategorical
from unnoise.core.processes.gaussian import Gaussian, gaussian
from unnoise.core.processes.product import Product
from unnoise.core.processes.torus import Torus

__all__ = ["Corrupted", "Gaussian", "Masked", "Process", "Product", "Torus", "UniformCategorical", "gaussian"]
