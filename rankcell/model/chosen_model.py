"""Which model is meant when none is named: the one that made the embeddings of the AnnData, as `uns["rankcell"]` says."""

from dataclasses import replace
from typing import Any

from rankcell.errors import ModelError, RankcellError
from rankcell.model.options import Model
from rankcell.wording import note, option


def model_for(source: Any, model: Any) -> Model:
    """`model` as it is; where none is named: the Checkpoint that `source.uns["rankcell"]` names, with a note, if it names one.

    model
        A Model, or what Model.of takes.

    ModelError when it names one that cannot be opened, or that is another by now.
    """
    model = Model.of(model)
    entry = getattr(source, "uns", {}).get("rankcell") if model.model is None and hasattr(source, "obsm") else None
    wanted = str(entry["model_hash"]) if hasattr(entry, "get") and "model_hash" in entry else None
    if wanted is None:
        return model
    names = dict.fromkeys(str(entry[key]) for key in ("model_source", "model") if entry.get(key))
    reasons = []
    for name in names:
        try:
            checkpoint = replace(model, model=name).open()
        except RankcellError as e:
            reasons.append(str(e))
            continue
        if checkpoint.hash == wanted:
            note(
                f"no model was named: taken is '{checkpoint.name}' ({name}), which made the embeddings of this AnnData (its uns['rankcell'])"
            )
            return Model(checkpoint)
        reasons.append(f"'{name}' is another model by now (hash {checkpoint.hash[:12]}, not {wanted[:12]})")
    raise ModelError(
        f"no model was named, and uns['rankcell'] names model '{entry.get('model', '')}', which cannot be taken: "
        f"{reasons[0] if reasons else 'it says no place'}; name it with {option('model', placeholder='MODEL')}"
    )
