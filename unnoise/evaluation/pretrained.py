"""Features of networks that others trained on millions of pictures, from files that the user has."""

from unnoise.evaluation.encoders import Encoder


def find_encoder(name: str) -> Encoder:
    """ "inception:PATH", "dinov2:PATH_OR_HUB", "clip:PATH_OR_HUB". Raises InputError for another name or a missing file."""
    raise NotImplementedError
