"""Which model runs, and where it runs: the options of every verb that needs one. No torch."""

import os
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Union

from rankcell.options import Help, Options, at_least

if TYPE_CHECKING:
    from rankcell.model.checkpoint import Checkpoint


@dataclass(frozen=True)
class Model(Options):
    """A checkpoint, and the vocabulary that completes it. Verbs also take its name, its folder or an opened Checkpoint alone."""

    model: Annotated[Any, Help("A checkpoint folder, a hub name (OWNER/REPO/FOLDER), or 'demo' (a toy of 765 genes).", cli=str)] = None
    _: KW_ONLY
    vocab: Annotated[Any, Help("A vocabulary folder or name; completes a checkpoint that carries none.", cli=str)] = None
    vocab_mismatch_ok: Annotated[
        bool, Help("Take a vocabulary with fewer tokens than the model, or other special tokens; recorded.")
    ] = False

    @classmethod
    def of(cls, value: "ModelLike") -> "Model":
        """What a verb was given for a model."""
        return value if isinstance(value, Model) else cls(value)

    def open(self) -> "Checkpoint":
        """The checkpoint; ModelError when it cannot be opened."""
        from rankcell.model.checkpoint import open_checkpoint

        return open_checkpoint(self.model, vocab=self.vocab, vocab_mismatch_ok=self.vocab_mismatch_ok)

    def name_or(self, checkpoint: "Checkpoint") -> str:
        """How any process opens the checkpoint: `demo`, a name on the hub, or the folder that it is in."""
        is_name = isinstance(self.model, str) and not os.path.isdir(self.model)
        return self.model if is_name else str(checkpoint.folder.resolve())


ModelLike = Union[str, os.PathLike, Model, "Checkpoint", None]


AUTO = "auto"
OneDevice = Annotated[str, Help("auto, cpu, cuda or cuda:N.")]


@dataclass(frozen=True)
class Device(Options):
    """Where and how a model is trained."""

    device: OneDevice = AUTO
    precision: Annotated[
        str, Help("fp32, tf32 (CUDA), bf16, fp16, or auto: the fastest that agrees with fp32 (perturb: on shifts); training takes fp32.")
    ] = AUTO


@dataclass(frozen=True)
class Compute(Device):
    """Where and how a model runs."""

    device: Annotated[str, Help("auto (all GPUs, or the processor), cpu, cuda, cuda:N; several with commas share the work.")] = AUTO
    tokens_per_batch: Annotated[
        int | None,
        Help("Most tokens given to the model at once (default: 4096 on a processor, what fits the memory on a GPU).", check=at_least(1)),
    ] = None
