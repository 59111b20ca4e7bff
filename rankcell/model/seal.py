"""What a checkpoint made here says of itself beside its config: the sha256 of its weights, and a note for all that is made with it."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from rankcell.errors import ModelError
from rankcell.hub import sha256_of
from rankcell.model.bert_config import read_json_object
from rankcell.store import write_json
from rankcell.wording import shortened

SEAL = "rankcell_checkpoint.json"
FORMAT = "rankcell-checkpoint-1"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Seal:
    """`weights`: file -> sha256 of its content; `note`: a sentence that goes with every result of the model, or ""."""

    weights: Mapping[str, str]
    note: str = ""


def write_seal(folder: Path, files: list[Path], note: str = "") -> None:
    """Write the seal of weights that were just saved."""
    weights = {file.name: sha256_of(file) for file in sorted(files)}
    write_json(folder / SEAL, {"format": FORMAT, "weights": weights} | ({"note": note} if note else {}))


def read_seal(folder: Path) -> Seal | None:
    """The seal of a checkpoint; None where it has none. ModelError when it is damaged."""
    path = folder / SEAL
    if not path.exists():
        return None
    head = read_json_object(path, missing=f"{path} is not there")
    weights, note = head.get("weights"), head.get("note", "")
    if head.get("format") != FORMAT:
        raise ModelError(f"{path}: format is {shortened(head.get('format'))}; this version reads {FORMAT!r}")
    if not isinstance(weights, dict) or not weights or not all(isinstance(h, str) and _SHA256.fullmatch(h) for h in weights.values()):
        raise ModelError(f"{path}: weights is {shortened(weights)}; expected the sha256 of each file. {_REMEDY}")
    if not isinstance(note, str) or len(note) > 500 or not note.isprintable():
        raise ModelError(f"{path}: note is {shortened(note)}; expected a sentence")
    return Seal(weights, note)


def require_intact(seal: Seal | None, folder: Path, hashes: Mapping[str, str]) -> None:
    """ModelError unless the files that are read are the ones that were saved. `hashes`: file -> sha256."""
    for file, digest in hashes.items():
        if seal is not None and seal.weights.get(file) != digest:
            was = (
                f"not the {seal.weights[file][:12]} that {SEAL} beside it names" if file in seal.weights else f"and {SEAL} does not name it"
            )
            raise ModelError(f"{folder / file} has sha256 {digest[:12]}, {was}: the weights are damaged or were replaced. {_REMEDY}")


_REMEDY = f"Copy or make the checkpoint again, or delete {SEAL} if the weights were replaced on purpose"
