"""Perturb: a deletion screen against a `datasets` of edited copies through BertForMaskedLM, and against embed's tokens/s.

python benchmarks/bench_perturb.py [--length 1000] [--edits 48] [--shape v1-10m]

One cell, `edits` of its genes deleted one by one; cosines of all remaining genes at layer -2. rankcell also does the in-place
pass, which the baseline does not; both figures are printed.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from bench_embed import SHAPES, make_model, make_tokens
from common import best_of, machine

from rankcell.embed import Embedder
from rankcell.perturb import Perturber


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


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--length", type=int, default=1000)
    ap.add_argument("--edits", type=int, default=48)
    ap.add_argument("--shape", choices=SHAPES, default="v1-10m")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--repeats", type=int, default=3)
    a = ap.parse_args()
    from transformers import BertForMaskedLM

    with tempfile.TemporaryDirectory() as tmp:
        folder, vocab = make_model(Path(tmp), SHAPES[a.shape])
        tokens = make_tokens(vocab, np.array([a.length]))
        row = tokens.row(0)
        genes = [vocab.describe_token(int(t)) for t in row[: a.edits]]
        perturber = Perturber(folder, device=a.device)
        many = make_tokens(vocab, np.full(a.edits, a.length - 1))
        embedder = Embedder(folder, device=a.device)
        embedder.embed(many)
        baseline = BertForMaskedLM.from_pretrained(folder).eval().to(a.device)
        screen = perturber.perturb(tokens, Path(tmp) / "first", genes=genes)
        ours = screen.table()["cos_genes"].to_numpy()
        theirs = plain_screen(baseline, row, range(a.edits), a.device)
        runs = iter(range(10_000))
        fast, slow, embed = best_of(
            a.repeats,
            lambda: perturber.perturb(tokens, Path(tmp) / f"run{next(runs)}", genes=genes),
            lambda: plain_screen(baseline, row, range(a.edits), a.device),
            lambda: embedder.embed(many),
        )
    tokens_seen = a.edits * (2 * a.length - 1) + a.length
    print(machine(), "| device", a.device)
    print(
        f"{a.shape}, one cell of {a.length} tokens, {a.edits} deletions, fp32, best of {a.repeats}; largest difference {np.abs(ours - theirs).max():.1e}"
    )
    print(f"rankcell perturb, two passes {fast:8.2f} s  {a.edits / fast:8.2f} deletions/s (plain and in place)")
    print(
        f"plain baseline, one pass     {slow:8.2f} s  {a.edits / slow:8.2f} deletions/s   rankcell is {slow / fast:.2f} times as fast, {2 * slow / fast:.2f} times a pass"
    )
    share = (tokens_seen / fast) / (a.edits * (a.length - 1) / embed)
    print(
        f"limit: embed's tokens/s      {a.edits * (a.length - 1) / embed:8,.0f}; the screen reaches {tokens_seen / fast:,.0f}, {share:.0%} of it"
    )


if __name__ == "__main__":
    main()
