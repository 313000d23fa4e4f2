"""How long a run will take and how much it needs, from rates that were measured or are assumed.

Time is arithmetic over a rate. To answer takes two operations a parameter and token; the tokens
are those of a prompt that its neighbours do not share, those of the response, and both again where
the model itself copies the exact answer from its response. A grid's cell takes some products of
its activations with a row for each of its fits, and the whitening before them.

An estimate is of the order of magnitude: other models, longer texts and busier machines do not
reach the same share of a processor's speed.
"""

import math

from probekit import arguments
from probekit.extraction.store import SHARD
from probekit.tokens import TOKENS

#: SmolLM2 on the shipped city questions, as the benchmarks run it: tokens are those of a prompt
#: that its neighbours do not share, and of a response.
DEFAULT = {
    "parameters": 134.5e6,
    "layers": 30,
    "hidden_size": 576,
    "questions": 1196,
    "prompt_tokens": 10,
    "response_tokens": 26,
}

_ITERATIONS = 60  # of the solver, on average

# What of a run of 120 questions, 105 s on two cores, is neither answering nor fitting: four kernels
# are started, a small model is loaded, figures are drawn, controls are fitted.
_STAGES = 94


def _to_answer(parameters, prompt_tokens, response_tokens, copied=False, **_):
    """Operations to answer one question."""
    return 2 * parameters * (prompt_tokens + response_tokens) * (2 if copied else 1)


def _to_fit(examples, features, fits):
    """Operations to fit one cell."""
    m = min(examples, features)  # with fewer examples than features, their span takes its place
    span = 2 * features * examples**2 if examples < features else 0
    return span + 2 * examples * m**2 + m**3 + _ITERATIONS * 4 * fits * examples * m


#: Operations a second when answering, and how that is known.
ANSWERING = {
    "CPU": (
        _to_answer(**DEFAULT) / 0.077,
        "bench_extract (c): 0.077 s a question, SmolLM2, two cores, float32",
    ),
    "A100": (
        0.05 * 312e12,
        "assumed, not measured: a twentieth of the vendor's 312 TFLOP/s in bfloat16",
    ),
}

#: Operations a second of one core when fitting, and how that is known.
FITTING = (
    _to_fit(965, 576, 200) / 0.136 / 2,
    "bench_probes (f, all cells): 0.136 s a cell of the default run, 200 fits, two cores",
)


def estimate(
    *,
    questions,
    parameters,
    layers,
    hidden_size,
    prompt_tokens,
    response_tokens,
    copied=False,
    sites=1,
    runs=1,
    device="CPU",
    devices=1,
    cores=2,
    key_value_size=None,
    folds=5,
    n_permutations=19,
):
    """Hours, store and memory that runs of the four notebooks will need, roughly.

    Parameters
    ----------
    questions : int
        Of each run.
    parameters, layers, hidden_size : number
        Of the model.
    prompt_tokens, response_tokens : float
        Means: of a prompt, without the tokens that all prompts begin with; of a response.
    copied : bool
        Whether the model copies exact answers from its responses, for want of candidates.
    sites : int
        Sites that are stored; the probe notebook fits one.
    runs : int
        Models times question files. Each device does one run at a time.
    device : {"CPU", "A100"}
        What answers; "CPU" is two cores, as measured. No GPU was measured: "A100" is taken to reach
        a twentieth of its vendor's 312 TFLOP/s.
    devices : int
    cores : int
        Cores that fit probes, on all machines together.
    key_value_size : int, optional
        Features of a layer's keys; by default `hidden_size`, as without grouped heads.
    folds, n_permutations : int
        As for `probe_grid`.

    Returns
    -------
    dict of {str: float}
        `answer_hours`, `fit_hours` and their sum with the other notebooks, `hours`; `store_gb` of
        all runs; `device_gb`, memory of each device; `fit_gb`, memory of all fitting processes.
        GB are 1e9 bytes.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, below 1 or not finite, or the device is unknown.

    Examples
    --------
    >>> import probekit as pk
    >>> model = {"parameters": 135e6, "layers": 30, "hidden_size": 576}
    >>> tokens = {"prompt_tokens": 40, "response_tokens": 20}
    >>> needed = pk.estimate(questions=1000, **tokens, **model)
    >>> {name: round(value, 2) for name, value in needed.items()}
    {'answer_hours': 0.04, 'fit_hours': 0.02, 'hours': 0.08, 'store_gb': 0.53,
    'device_gb': 10.31, 'fit_gb': 1.03}
    """
    for name, value in locals().items():
        optional = name == "key_value_size" and value is None
        if name not in ("device", "copied", "n_permutations") and not optional:
            arguments.number(name, value, 1, 1e15)
    n_permutations = arguments.whole("n_permutations", n_permutations, 0, 10_000)
    arguments.flag("copied", copied)
    arguments.one_of("device", device, ANSWERING)
    operations = questions * _to_answer(parameters, prompt_tokens, response_tokens, copied)
    answer = runs * operations / ANSWERING[device][0] / devices / 3600
    # Of both splits: folds of all labellings, pairs of folds, and all examples; then as published.
    fits = folds * (1 + n_permutations) + folds * (folds - 1) / 2 + 1
    cell = 2 * _to_fit(questions, hidden_size, fits) + _to_fit(questions, hidden_size, 2)
    fit = runs * layers * len(TOKENS) * cell / FITTING[0] / cores / 3600
    # Every file of the store is as large as the first.
    shards = math.ceil(questions / SHARD) * SHARD if questions > SHARD else questions
    item, batch = (4, 256) if device == "CPU" else (2, 64)
    # Keys and values of a batch, and the activations of its tokens.
    longest = 2 * (prompt_tokens + response_tokens) + 64
    row = 2 * longest * (key_value_size or hidden_size) + longest * hidden_size
    return {
        "answer_hours": answer,
        "fit_hours": fit,
        "hours": answer + fit + runs * _STAGES / 3600 / devices,
        "store_gb": runs * sites * shards * layers * len(TOKENS) * hidden_size * 2 / 1e9,
        "device_gb": (parameters * item + batch * layers * row * item) / 1e9,
        "fit_gb": cores * (0.5 + questions * (6 * hidden_size + 6 * fits) * 4 / 1e9),
    }
