"""Seconds a question to answer and capture: as usually done, in batches, and ours.

    .venv/bin/python tests/benchmarks/bench_extract.py [--questions 256] [--repeats 3]

In one process, on SmolLM2 and city questions, with the same threads for all, in turn so that the
machine's moods meet all alike; medians of the repeats:

(a) one question at a time: `generate`, then a second pass with all hidden states
(b) `generate` in batches of 32, sorted by length and padded on the left, then a second pass with
    hooks at the MLPs, in the same batches: the best that can be done with transformers alone
(c) `probekit.extract`, with grading and the store on disk

and the floor: the floating-point operations that the shared-prefix pass needs, over the rate of
this machine's own matrix products, of the same shapes, measured in the same run.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

import probekit as pk
from probekit.extraction.generation import common_prefix
from probekit.extraction.sites import decoder_blocks, find_sites

NEW_TOKENS = 64


def one_at_a_time(lm, prompts):
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            full = lm.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=sorted(lm.stop_ids),
                pad_token_id=lm.tokenizer.eos_token_id,
            )
            lm.model(full, output_hidden_states=True)


def in_batches(lm, prompts, size=32):
    kept = {}
    hooks = []
    for layer, block in enumerate(decoder_blocks(lm.model)):
        mlp = find_sites(block)["mlp_out"][0]
        hooks.append(
            mlp.register_forward_hook(lambda m, a, out, layer=layer: kept.__setitem__(layer, out))
        )
    pad = lm.tokenizer.eos_token_id
    prompts = sorted(prompts, key=len)
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in batch])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
        with torch.inference_mode():
            full = lm.model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=sorted(lm.stop_ids),
                pad_token_id=pad,
            )
            answered = torch.ones(len(batch), full.shape[1] - width, dtype=torch.long)
            mask = torch.cat([mask, answered], dim=1)
            positions = (mask.cumsum(1) - 1).clamp_min(0)
            lm.model(full, attention_mask=mask, position_ids=positions, logits_to_keep=1)
    for hook in hooks:
        hook.remove()


def ours(lm, questions):
    with tempfile.TemporaryDirectory() as folder:
        run = pk.Run(Path(folder) / "run")
        pk.extract(lm, questions, run, max_new_tokens=NEW_TOKENS, progress=False)
        return run.answers()


def flops(lm, prompts, answers):
    """Operations of the products with weight matrices, a question."""
    blocks = sum(p.numel() for p in decoder_blocks(lm.model).parameters() if p.dim() > 1)
    head = lm.model.get_output_embeddings().weight.numel()
    prefix = common_prefix(prompts)
    read = sum(len(p) - prefix for p in prompts) / len(prompts)
    generated = answers["n_tokens"].mean()
    return 2 * (blocks * (read + generated) + head * (1 + generated))


def product_rate(lm):
    """Operations a second of this machine on the model's own widest layer, at the best batch."""
    weight = find_sites(decoder_blocks(lm.model)[0])["mlp_act"][0].weight
    best = 0.0
    for rows in (64, 128, 256, 512):
        x = torch.randn(rows, weight.shape[1])
        times = []
        for _ in range(30):
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            times.append(time.perf_counter() - start)
        best = max(best, 2 * rows * weight.numel() / statistics.median(times))
    return best


def timed(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lm = pk.load_model("smollm2")
    questions = pk.read_questions("cities", limit=options.questions)
    prompts = [lm.tokenize(lm.prompt(question)) for question in questions["question"]]
    single, batched = prompts[:: len(prompts) // 8][:8], prompts[: max(64, len(prompts) // 2)]
    one_at_a_time(lm, single[:1])  # warm-up
    a, b, c, floor = [], [], [], []
    for _ in range(options.repeats):
        a.append(timed(one_at_a_time, lm, single)[0] / len(single))
        b.append(timed(in_batches, lm, batched)[0] / len(batched))
        seconds, answers = timed(ours, lm, questions)
        c.append(seconds / len(questions))
        with torch.inference_mode():
            floor.append(flops(lm, prompts, answers) / product_rate(lm))
    tokens = answers["n_tokens"].mean()
    print(
        f"SmolLM2, {options.threads} threads, {len(questions)} questions, {tokens:.1f} tokens each"
    )
    for name, values in (("a", a), ("b", b), ("c", c), ("floor", floor)):
        spread = f"{min(values):.3f} to {max(values):.3f}"
        print(f"{name:>6} {statistics.median(values):.3f} s a question ({spread})")
    for name, top, bottom in (("a/c", a, c), ("b/c", b, c), ("c/floor", c, floor)):
        ratio = statistics.median(x / y for x, y in zip(top, bottom, strict=True))
        print(f"{name:>8} {ratio:.2f}")


if __name__ == "__main__":
    main()
