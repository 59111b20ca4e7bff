"""Masked-language-model training on token sets: collate, initial values, the loop, and what came of it."""

from rankcell.train.evaluate import masked_accuracy
from rankcell.train.pretrain import pretrain
from rankcell.train.recipe import Recipe

__all__ = ["Recipe", "masked_accuracy", "pretrain"]
