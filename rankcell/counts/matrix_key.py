"""MatrixKey: which matrix of an input is meant; its name and the option that asks for it are made where they are shown."""

from dataclasses import dataclass

from rankcell.wording import offers, option

COUNT_LAYERS = ("counts", "rawcounts", "count", "umis", "umi", "umicounts", "countsraw", "rawcount", "originalcounts", "raw")


@dataclass(frozen=True)
class MatrixKey:
    """A layer, raw, or (neither) X, or what a format has in its place."""

    layer: str | None = None
    raw: bool = False

    @property
    def is_x(self) -> bool:
        return self.layer is None and not self.raw

    def name(self, x: str = "X") -> str:
        """The name of the matrix in messages and records. `x`: what the format calls the matrix that is read where none is named."""
        return "raw" if self.raw else f"layer '{self.layer}'" if self.layer is not None else x

    def option(self) -> str:
        """The option that requests the matrix, as the caller would write it; "" where none is needed."""
        return option("raw", True) if self.raw else option("counts_layer", self.layer) if self.layer is not None else ""

    def order(self) -> tuple[int, int, str]:
        """Sort key: X before raw before layers, of which those named like counts come first."""
        return (0 if self.is_x else 1 if self.raw else 2, self._among_count_layers(), self.layer or "")

    def _among_count_layers(self) -> int:
        """The place of a layer among the names by which people call counts, from 0; their number for another name."""
        word = "".join(c for c in (self.layer or "").lower() if c.isalnum())
        return COUNT_LAYERS.index(word) if word in COUNT_LAYERS else len(COUNT_LAYERS)

    def is_called_counts(self) -> bool:
        """Whether the name says counts: raw, or a layer with one of COUNT_LAYERS."""
        return self.raw or self._among_count_layers() < len(COUNT_LAYERS)

    def advice(self) -> str:
        """Advice for an error: how to have these counts read, in the words of the verb that runs."""
        if self.is_x:
            options = [option(name) for name in ("counts_layer", "raw") if offers(name)]
            return f"leave out {' and '.join(options)}: X holds counts" if options else "put X in its place, which holds counts"
        if offers("raw" if self.raw else "counts_layer"):
            return f"pass {self.option()}, which holds counts"
        return f"put {'raw' if self.raw else f'layer {self.layer!r}'} into X, which holds counts"


X = MatrixKey()
RAW = MatrixKey(raw=True)
