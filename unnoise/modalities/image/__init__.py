"""Pictures: read them, encode them, show them."""

from unnoise.modalities.image.codec import Pixels, PixelsConfig
from unnoise.modalities.image.data import PictureData, PictureOptions, TrainingPictures
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.show import path_strip, read_meta, save_png, sheet

__all__ = [
    "PictureData",
    "PictureOptions",
    "Pixels",
    "PixelsConfig",
    "TrainingPictures",
    "path_strip",
    "read_meta",
    "read_pictures",
    "save_png",
    "sheet",
]
