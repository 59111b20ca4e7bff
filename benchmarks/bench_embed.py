"""Embed: rankcell against BertForMaskedLM with all hidden states in padded batches of 8, and against the matrix rate.

python benchmarks/bench_embed.py [--cells 16] [--length 2048] [--shape v1-10m] [--precision fp32 bf16] [--pool mean]

Random weights and rows: time does not depend on them. Layer -2. Also: rows of mixed lengths (64 to --length) against full ones. The
limit on a processor is the time of the matrix products alone, of the same sizes (attention's included), each by the fastest
library that torch has here. On a GPU: --device cuda.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from common import best_of, forward_flops, machine, matmul_rates

from rankcell.embed import Embedder
from rankcell.model.batches import TOKENS_PER_BATCH
from rankcell.model.heads import new_masked_lm, save_masked_lm
from rankcell.model.options import Compute
from rankcell.tokens import TokenSet, TokenSpec
from rankcell.vocab import Vocabulary

SHAPES = {
    "demo": dict(layers=3, width=128, heads=4, intermediate=256, positions=2048, genes=765),
    "v1-10m": dict(layers=6, width=256, heads=4, intermediate=512, positions=2048, genes=25424),
    "v2-narrow": dict(layers=6, width=384, heads=6, intermediate=1536, positions=4096, genes=20271),
    "v2-104m": dict(layers=12, width=768, heads=12, intermediate=3072, positions=4096, genes=20271),
    "v2-316m": dict(layers=18, width=1152, heads=18, intermediate=4608, positions=4096, genes=20271),
}


def make_model(folder: Path, shape: dict) -> tuple[Path, Vocabulary]:
    import torch

    torch.manual_seed(0)
    n = shape["genes"]
    vocab = Vocabulary(
        name="bench",
        genes=[f"ENSG{i:011d}" for i in range(n)],
        tokens=np.arange(n) + 2,
        medians=np.ones(n),
        special={"<pad>": 0, "<mask>": 1},
    )
    model = new_masked_lm(vocab, dropout=0.0, activation="relu", **{k: v for k, v in shape.items() if k != "genes"})
    save_masked_lm(model, folder / "model", vocab)
    return folder / "model", vocab


def make_tokens(vocab: Vocabulary, lengths: np.ndarray, seed: int = 0) -> TokenSet:
    rng = np.random.default_rng(seed)
    rows = [rng.choice(vocab.tokens, n, replace=n > len(vocab)) for n in lengths]
    return TokenSet.from_rows(rows, TokenSpec.of(vocab, frame=vocab.frame, max_len=int(max(lengths))))


def plain_embeddings(model, tokens: TokenSet, device: str, layer: int = -2) -> np.ndarray:
    """Padded batches of 8 in the given order, every hidden state kept, mean over real tokens."""
    import torch

    out = []
    with torch.no_grad():
        for a in range(0, len(tokens), 8):
            rows = [torch.from_numpy(tokens.row(i).astype(np.int64)) for i in range(a, min(a + 8, len(tokens)))]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
            mask = (torch.arange(ids.shape[1])[None] < torch.tensor([len(r) for r in rows])[:, None]).long().to(device)
            h = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[layer]
            out.append(((h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy())
    return np.concatenate(out)


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))).min())


def gpu_rate(shape: dict, tokens: int) -> float:
    """Operations a second of the linear layers' products alone in bf16 on the GPU."""
    import torch

    w, i = shape["width"], shape["intermediate"]
    x, wide = torch.randn(tokens, w, device="cuda").bfloat16(), torch.randn(tokens, i, device="cuda").bfloat16()
    weights = [torch.randn(n, m, device="cuda").bfloat16() for n, m in ((3 * w, w), (w, w), (i, w), (w, i))]

    def once() -> None:
        for weight, a in zip(weights, (x, x, x, wide), strict=True):
            a @ weight.T
        torch.cuda.synchronize()

    once()
    return 2.0 * tokens * sum(weight.numel() for weight in weights) / best_of(10, once)[0]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cells", type=int, default=16)
    ap.add_argument("--length", type=int, default=2048)
    ap.add_argument("--shape", choices=SHAPES, default="v1-10m")
    ap.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    ap.add_argument("--pool", nargs="+", default=["mean"])
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--repeats", type=int, default=3)
    a = ap.parse_args()
    import torch
    from transformers import BertForMaskedLM

    shape = SHAPES[a.shape]
    with tempfile.TemporaryDirectory() as tmp:
        folder, vocab = make_model(Path(tmp), shape)
        full = make_tokens(vocab, np.full(a.cells, a.length))
        mixed = make_tokens(vocab, np.random.default_rng(1).integers(64, a.length + 1, 2 * a.cells))
        baseline = BertForMaskedLM.from_pretrained(folder).eval().to(a.device)
        ours = {p: Embedder(folder, Compute(a.device, precision=p)) for p in a.precision}
        found = {p: e.embed(full, pool=a.pool).columns[f"{a.pool[0]}_layer-2"] for p, e in ours.items()}
        theirs = plain_embeddings(baseline, full, a.device)
        work = [lambda e=e, t=t: e.embed(t, pool=a.pool) for e in ours.values() for t in (full, mixed)]
        slow, *fast = best_of(a.repeats, lambda: plain_embeddings(baseline, full, a.device), *work)
    n, n_mixed = int(full.lengths.sum()), int(mixed.lengths.sum())
    size = dict(length=a.length, width=shape["width"], intermediate=shape["intermediate"])
    needed = forward_flops(tokens=n, layers=shape["layers"] - 1, **size)
    print(machine(), "| device", a.device, "| torch", torch.__version__, "| threads", torch.get_num_threads())
    print(f"{a.shape}, {a.cells} cells of {a.length} tokens, pool {' '.join(a.pool)}, best of {a.repeats}")
    print(f"plain baseline, fp32       {slow:8.2f} s  {a.cells / slow:8.2f} cells/s")
    for i, p in enumerate(a.precision):
        t, t_mixed = fast[2 * i], fast[2 * i + 1]
        print(
            f"rankcell embed, {p}       {t:8.2f} s  {a.cells / t:8.2f} cells/s   {slow / t:.2f} times as fast; {needed / t / 1e9:.0f} GFLOP/s"
        )
        if a.pool == ["mean"]:
            print(
                f"  against the baseline: largest difference {np.abs(found[p] - theirs).max():.1e}, least cosine {least_cosine(found[p], theirs):.6f}"
            )
        print(
            f"  mixed lengths (64 to {a.length}): {n_mixed / t_mixed:,.0f} tokens/s, {n_mixed / t_mixed / (n / t):.0%} of {n / t:,.0f} with full rows"
        )
        if a.device == "cpu" and p in ("fp32", "bf16"):
            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[p]
            rates = matmul_rates(tokens=TOKENS_PER_BATCH, heads=shape["heads"], dtype=dtype, **size)
            words = ", ".join(f"{name} {r / 1e9:.0f} ({needed / t / r:.0%} of it reached)" for name, r in rates.items())
            print(f"  matrix products alone, GFLOP/s: {words}")
        elif a.device.startswith("cuda") and p == "bf16":
            rate = gpu_rate(shape, 32 * a.length)
            print(f"  bf16 products of the linear layers alone: {rate / 1e12:.0f} TFLOP/s; {needed / t / rate:.0%} of it reached")


if __name__ == "__main__":
    main()
