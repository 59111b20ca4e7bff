"""Masked-language-model training on token sets: collate, initial values, the loop, and the evaluation."""

from rankcell.lazy import door

_PLACES = {
    "Recipe": "rankcell.train.recipe",
    "masked_accuracy": "rankcell.train.evaluate",
    "pretrain": "rankcell.train.pretraining",
}
__getattr__, __dir__ = door(__name__, _PLACES)
