"""What a folder of weights holds that is no diffusion model, and what that is for."""

from pathlib import Path
from typing import Any, NamedTuple

from unnoise.checkpoints.folder import read_json


class Kind(NamedTuple):
    """What it is, and where it is used; FOLDER stands for its place."""

    called: str
    use: str

    def said(self, folder: Path) -> str:
        return f"{self.called}; for {self.use.replace('FOLDER', str(folder))}"


MODEL = Kind("a diffusion model", "`unnoise sample FOLDER`")
RETRIEVAL = Kind(
    "a retrieval network",
    "`unnoise evaluate MODEL --data DATA --retrieval FOLDER` and `unnoise train DATA --recipe unclip-prior --embedder FOLDER`",
)
KINDS = {
    "latents.LatentsConfig": Kind("an autoencoder's codec", "`unnoise train DATA --recipe latent --codec FOLDER`"),
    "retrieval.RetrievalConfig": RETRIEVAL,
    "distilled.DistilledConfig": Kind("a text encoder", "`unnoise train DATA --text-encoder FOLDER`"),
    "model.ModelConfig": MODEL,
}
"""By the class that config.json names."""


def kind_at(folder: Path) -> Kind | None:
    """Of a folder of weights or a finished run's; None where it says nothing of the kind. InputError for a damaged config.json."""
    for file in (folder / "config.json", folder / "model" / "config.json"):
        if file.is_file():
            document = read_json(file)
            model: Any = document.get("model") if isinstance(document, dict) else None
            return KINDS.get(str(model.get("class"))) if isinstance(model, dict) else None
    return None
