"""Weights that are packed into fewer bits in a way that needs its own library to be read: found before they are taken for numbers.

Whoever reads such integers as they lie, without the scales beside them, has a network that runs and says nonsense.
"""

from collections.abc import Mapping
from typing import Any

from unnoise.core.errors import InputError

_SCALES = (".SCB", ".absmax", ".scale_weight", ".weight_scale", ".qweight", ".weight_packed")
_WHOLE = {"I8", "U8", "F4", "F8_E8M0"}
_KINDS = ("bnb_4bit_quant_type", "weights_dtype", "weights", "quant_type")


def refuse_packed(config: Mapping[str, Any], dtypes: Mapping[str, str], where: object) -> None:
    """InputError for a network that its config.json calls quantised, and for one whose tensors are.

    dtypes: of its tensors, as safetensors call them, such as "BF16".
    """
    if told := config.get("quantization_config"):
        raise InputError(f"{where}: its weights are quantised ({_how(told)}, says config.json), {_INSTEAD}")
    for name, dtype in dtypes.items():
        if ".quant_state." in name or name.endswith(_SCALES) or (dtype in _WHOLE and name.endswith(".weight")):
            raise InputError(f"{where}: its weights are quantised ({name!r} is there, as {dtype}), {_INSTEAD}")


_INSTEAD = "which is not read from a folder; take the same network in bfloat16 or float16"


def _how(told: object) -> str:
    """The library, and how many bits it makes of a weight."""
    if not isinstance(told, Mapping):
        return str(told)
    kind = "int8" if told.get("load_in_8bit") else next((told[k] for k in _KINDS if isinstance(told.get(k), str)), "")
    return f"{told.get('quant_method', 'by what is not said')} {kind}".strip()
