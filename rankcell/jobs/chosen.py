"""Which model is meant when none is named: the one that made the embeddings of the AnnData, as `uns["rankcell"]` says."""

from typing import Any

from rankcell.errors import ModelError, RankcellError
from rankcell.model import open_checkpoint
from rankcell.wording import note, option


def model_for(source: Any, model: Any, *, vocab: Any = None, vocab_mismatch_ok: bool = False) -> Any:
    """`model` as it is; None: the Checkpoint that `source.uns["rankcell"]` names, with a note, or None when it names none.

    ModelError when it names one that cannot be opened, or that is another by now.
    """
    entry = getattr(source, "uns", {}).get("rankcell") if model is None and hasattr(source, "obsm") else None
    wanted = str(entry["model_hash"]) if hasattr(entry, "get") and "model_hash" in entry else None
    if wanted is None:
        return model
    names = dict.fromkeys(str(entry[key]) for key in ("model_source", "model") if entry.get(key))
    reasons = []
    for name in names:
        try:
            checkpoint = open_checkpoint(name, vocab=vocab, vocab_mismatch_ok=vocab_mismatch_ok)
        except RankcellError as e:
            reasons.append(str(e))
            continue
        if checkpoint.hash == wanted:
            note(
                f"no model was named: taken is '{checkpoint.name}' ({name}), which made the embeddings of this AnnData (its uns['rankcell'])"
            )
            return checkpoint
        reasons.append(f"'{name}' is another model by now (hash {checkpoint.hash[:12]}, not {wanted[:12]})")
    said = f"model '{entry.get('model', '')}'"
    raise ModelError(
        f"no model was named, and uns['rankcell'] names {said}, which cannot be taken: {reasons[0] if reasons else 'it says no place'}; "
        f"name it with {option('model', placeholder='MODEL')}"
    )
