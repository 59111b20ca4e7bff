"""One function a verb: files in, files out. The command line and the counters (pp, tl) both stand on these."""

from rankcell.jobs.assess import compare
from rankcell.jobs.check import CheckReport, check
from rankcell.jobs.counts import tokenize, tokenized
from rankcell.jobs.labels import annotate
from rankcell.jobs.models import embed, gene_embeddings, pretrain, state_embeddings, training_report
from rankcell.jobs.plots import plot
from rankcell.jobs.stats import stats
from rankcell.jobs.vocab import build_vocab, fetch_vocab, import_vocab, show_vocab, tally_vocab

__all__ = [
    "CheckReport",
    "annotate",
    "build_vocab",
    "check",
    "compare",
    "embed",
    "fetch_vocab",
    "gene_embeddings",
    "import_vocab",
    "plot",
    "pretrain",
    "show_vocab",
    "state_embeddings",
    "stats",
    "tally_vocab",
    "tokenize",
    "tokenized",
    "training_report",
]
