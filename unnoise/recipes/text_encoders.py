"""Text encoders for a run: a frozen one by name, its embeddings in a book beside the run; or a distilled one from its folder."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import nn
from tqdm import tqdm

from unnoise.checkpoints.config import allow
from unnoise.checkpoints.folder import load_weights, read_folder, write_folder
from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.modalities.words.book import Book
from unnoise.modalities.words.distilled import Distilled, DistilledConfig
from unnoise.modalities.words.emphasis import EmphaticConfig
from unnoise.modalities.words.frozen import CLIPTextConfig, Frozen, T5TextConfig, read_encoder
from unnoise.modalities.words.joined import EndToEndConfig, sd3, sdxl
from unnoise.networks.word_encoder import WordEncoderConfig

_AT_ONCE = 256
_CLASSES = allow(DistilledConfig, WordEncoderConfig)


class Words(NamedTuple):
    """A conditioner for words, and the widths of what it says."""

    conditioner: EmphaticConfig
    vector_dim: int
    token_dim: int


@dataclass(frozen=True)
class GivenWords:
    """A distilled text encoder that was trained before: where it lay, and the hash of its weights."""

    path: str
    hash: str

    def load(self) -> Distilled:
        """InputError if it is not what it was."""
        found, digest = _read_distilled(self.path)
        if digest != self.hash:
            raise InputError(
                f"{self.path}: its weights are {digest[:16]}, and this run was planned with {self.hash[:16]}; "
                "bring that text encoder back, or start another run"
            )
        return found


def given_words(name: str) -> GivenWords | None:
    """The distilled text encoder `name` as it is now; None where that is a frozen one."""
    return None if _distilled_place(Path(name)) is None else GivenWords(name, _read_distilled(name)[1])


def words_of(name: str) -> Words:
    """The text encoder `name`: a folder of the recipe `distil-text`, or a frozen one by its folder or hub name; several frozen
    ones, their names separated by commas, are told end to end. CLIP+CLIP are told side by side, as in SDXL, and CLIP+CLIP,T5 as in
    SD3 (see `joined`).

    Raises InputError for what is none of these.
    """
    if not Path(name).exists() and any("+" in n and not Path(n.strip()).exists() for n in name.split(",")):
        return _side_by_side(name)
    if "," in name and not Path(name).exists():
        names = [n.strip() for n in name.split(",") if n.strip()]
        several = [words_of(n) for n in names]
        if odd := [n for n, words in zip(names, several) if isinstance(words.conditioner, DistilledConfig)]:
            raise InputError(f"{odd[0]}: a distilled text encoder is told alone; several are frozen ones")
        config = EndToEndConfig(tuple(w.conditioner for w in several))
        return Words(config, sum(w.vector_dim for w in several), max(w.token_dim for w in several))
    if (place := _distilled_place(Path(name))) is not None:
        config = read_folder(place, DistilledConfig, _CLASSES)[0]
        return Words(config, config.encoder.out, config.encoder.out)
    frozen = read_encoder(name)
    return Words(frozen, 0 if isinstance(frozen, T5TextConfig) else frozen.width, frozen.width)


def _side_by_side(name: str) -> Words:
    both, *behind = (group.strip() for group in name.split(","))
    parts = [words_of(n.strip()).conditioner for n in (*both.split("+"), *behind) if n]
    known = all(isinstance(p, T5TextConfig) for p in parts[2:])
    if len(parts) != 2 + len(behind) or len(behind) > 1 or not known or not all(isinstance(p, CLIPTextConfig) for p in parts[:2]):
        raise InputError(f"--text-encoder {name}: CLIP+CLIP are told side by side, and CLIP+CLIP,T5; others with commas between")
    conditioner = (sd3 if behind else sdxl)(*parts)  # type: ignore[arg-type]
    encoder = conditioner.build()
    told = encoder(encoder.prepare([""]))  # no configuration says how wide a CLIP's projection is
    return Words(conditioner, told["vector"].shape[-1], told["tokens"].shape[-1])


def fill(module: nn.Module, words: str | GivenWords | None) -> None:
    """Give every distilled encoder within the module what the given one, or the one in the folder, was taught.

    InputError for weights of another encoder, and where there is such an encoder and none is given.
    """
    for part in module.modules():
        if isinstance(part, Distilled):
            if words is None:
                raise InputError(
                    f"a model that is told by a distilled text encoder ({part.config.teacher}) needs its folder: words"
                )
            taught = load_distilled(words) if isinstance(words, str) else words.load()
            load_weights(part.encoder, taught.encoder.state_dict(), Path(words if isinstance(words, str) else words.path))


def learn_by_heart(module: nn.Module, texts: Iterable[str], folder: Path, first: bool = True) -> None:
    """Have every frozen encoder within the module read the texts once, and keep what they mean in a book in the folder.

    A book that is there is read, and texts that it lacks are added, by the first process alone: the others read as they go.
    """
    wanted = ["", *sorted(set(texts) - {""})]
    for part in module.modules():
        if isinstance(part, Frozen):
            file = folder / f"words-{part.identity}.safetensors"
            book = Book.open(file, part.identity) if file.exists() else Book.empty()
            if missing := [t for t in wanted if t not in book]:
                if not first:
                    continue
                rows = {t: book[t] for t in wanted if t in book}
                for a in tqdm(range(0, len(missing), _AT_ONCE), desc="reading captions", leave=False):
                    some = missing[a : a + _AT_ONCE]
                    rows |= zip(some, part.rows(some))
                with atomically(file) as half:
                    Book.write(half, part.identity, {t: rows[t] for t in wanted})
                book = Book.open(file, part.identity)
            part.book = book


def save_distilled(folder: Path, distilled: Distilled) -> str:
    """Write the encoder's folder; returns the hash of its tensors. Raises InputError on a full disk."""
    config = distilled.config
    weights = sum(p.numel() for p in distilled.parameters())
    card = f"""# A text encoder

{weights / 1e6:.2f}M weights, {config.encoder.rows:,} pieces of words; learnt by unnoise from {config.teacher}.

    unnoise train DATA --text-encoder THIS_FOLDER
"""
    return write_folder(folder, config, distilled.state_dict(), card)


def load_distilled(folder: str | Path) -> Distilled:
    """From a folder that `save_distilled` wrote, or the run that trained it. Raises InputError for what is not one."""
    return _read_distilled(folder)[0]


def _read_distilled(folder: str | Path) -> tuple[Distilled, str]:
    """The encoder, and the hash of its weights."""
    place = _distilled_place(Path(folder))
    if place is None:
        raise InputError(f"{folder}: not a text encoder; `unnoise train DATA --recipe distil-text --out {folder}` makes one")
    config, tensors, digest = read_folder(place, DistilledConfig, _CLASSES)
    distilled = config.build()
    load_weights(distilled, tensors, place)
    return distilled.eval(), digest


def _distilled_place(folder: Path) -> Path | None:
    for place in (folder, folder / "model"):
        if (place / "model.safetensors").is_file() and "distilled.DistilledConfig" in _start(place / "config.json"):
            return place
    return None


def _start(file: Path) -> str:
    return file.read_text(encoding="utf-8")[:400] if file.is_file() else ""
