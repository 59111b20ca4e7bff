"""Perturb: a deletion screen against a `datasets` of edited copies through BertForMaskedLM, and against embed's tokens/s.

python benchmarks/bench_perturb.py [--length 1000] [--edits 64] [--shape v1-10m] [--precision fp32] [--device cpu]

One cell, `edits` neighbouring genes from the middle of its row deleted one by one; all scores at layer -2. rankcell does two
passes for each (plain and in place), the baseline one; both figures are printed. The baseline (fp32 throughout) makes the edited
copies as a Dataset, runs batches of 8 with all hidden states, and takes cosines copy by copy. embed is rankcell's own, in
the same precision, on as many rows of the same length; loading the model is in none of the times.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from bench_embed import SHAPES, make_model, make_tokens
from common import best_of, machine

from rankcell.embed import Embedder
from rankcell.model.options import Compute
from rankcell.model.precisions import PRECISIONS
from rankcell.perturb import Delete, EditPlan, StateEmbeddings
from rankcell.perturb.exact import sharing
from rankcell.perturb.exact.engine import Engine


def plain_screen(model, row: np.ndarray, positions: range, device: str) -> np.ndarray:
    """Edited copies as a Dataset, batches of 8, all hidden states, cosine per remaining gene, mean per copy."""
    import torch
    from datasets import Dataset

    original = torch.from_numpy(row.astype(np.int64))[None].to(device)
    copies = Dataset.from_dict({"input_ids": [np.delete(row, p).tolist() for p in positions], "gone": list(positions)})
    out = []
    with torch.no_grad():
        before = model(input_ids=original, output_hidden_states=True).hidden_states[-2][0]
        for a in range(0, len(copies), 8):
            part = copies[a : a + 8]
            after = model(input_ids=torch.tensor(part["input_ids"]).to(device), output_hidden_states=True).hidden_states[-2]
            for h, p in zip(after, part["gone"], strict=True):
                kept = torch.cat([before[:p], before[p + 1 :]])
                out.append(torch.nn.functional.cosine_similarity(kept, h, dim=-1).mean().item())
    return np.array(out)


def screens(embedder: Embedder, row: np.ndarray, genes: list[str], frame) -> tuple:
    """The same screen with what deletions share computed once, and with everything computed for each."""
    checkpoint = embedder.checkpoint
    plan = EditPlan.make(checkpoint.vocab, Delete(genes), frame=frame, max_len=len(row))
    engine = Engine(embedder.encoder, plan, checkpoint.resolve_layer(-2), StateEmbeddings({}), embedder.tokens_per_batch)

    def run(least: int):
        sharing.LEAST_EDITS = least
        return engine.run([row]).scores

    return lambda: run(1), lambda: run(len(row) + 1)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--length", type=int, default=1000)
    ap.add_argument("--edits", type=int, default=64)
    ap.add_argument("--shape", choices=SHAPES, default="v1-10m")
    ap.add_argument("--precision", choices=PRECISIONS[1:], default="fp32")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--repeats", type=int, default=3)
    ap.add_argument("--baseline-edits", type=int, help="Fewer for the baseline, which is slow (default: as many).")
    a = ap.parse_args()
    from transformers import BertForMaskedLM

    with tempfile.TemporaryDirectory() as tmp:
        folder, vocab = make_model(Path(tmp), SHAPES[a.shape])
        tokens = make_tokens(vocab, np.array([a.length]))
        row = tokens.row(0)
        first = (a.length - a.edits) // 2
        genes = [vocab.describe_token(int(t)) for t in row[first : first + a.edits]]
        n_plain = a.baseline_edits or a.edits
        many = make_tokens(vocab, np.full(2 * a.edits, a.length - 1))
        embedder = Embedder(folder, Compute(a.device, precision=a.precision))
        shared, each = screens(embedder, row, genes, tokens.frame)
        baseline = BertForMaskedLM.from_pretrained(folder).eval().to(a.device)
        ours, theirs = shared(), plain_screen(baseline, row, range(first, first + n_plain), a.device)
        apart = {n: float(np.abs(v - ours[n]).max()) for n, v in each().items()}
        embedder.embed(many)
        fast, slower, slow, embed = best_of(
            a.repeats,
            shared,
            each,
            lambda: plain_screen(baseline, row, range(first, first + n_plain), a.device),
            lambda: embedder.embed(many),
        )
    slow *= a.edits / n_plain
    print(machine(), "| device", a.device)
    off = np.abs(ours["cos_genes"][:n_plain] - theirs).max()
    print(
        f"{a.shape}, one cell of {a.length} tokens, {a.edits} deletions, {a.precision}, best of {a.repeats}; largest difference of cos_genes to the baseline {off:.1e}"
    )
    print(f"rankcell, two passes     {fast:8.2f} s  {a.edits / fast:8.2f} deletions/s (plain and in place)")
    print(
        f"  without sharing        {slower:8.2f} s  {a.edits / slower:8.2f} deletions/s; sharing gains {slower / fast - 1:.0%}, largest difference of any score {max(apart.values()):.1e}"
    )
    print(
        f"plain baseline, one pass {slow:8.2f} s  {a.edits / slow:8.2f} deletions/s: rankcell is {slow / fast:.2f} times as fast, {2 * slow / fast:.2f} times a pass"
    )
    seen = a.edits * (2 * a.length - 1)
    print(
        f"tokens/s: {seen / fast:,.0f}, {seen / fast / (2 * a.edits * (a.length - 1) / embed):.0%} of embed's {2 * a.edits * (a.length - 1) / embed:,.0f}"
    )


if __name__ == "__main__":
    main()
