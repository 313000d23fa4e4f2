"""Does the model use what a probe reads? Change it while the model answers, and see what changes.

A direction that a probe reads may be a trace that nothing in the model looks at. So the activations
of the probe's layer are moved along its direction, or what it reads is taken out of them, and the
answers are compared; and the same is done with random directions of the same length, as any push
that is large enough changes something.
"""

from contextlib import contextmanager

import numpy as np
import torch
import xarray as xr
from sklearn.covariance import ledoit_wolf
from tqdm import tqdm

from probekit import arguments
from probekit.extraction.generation import SHARED, answered_alike, examined, said_logprobs
from probekit.extraction.models import LanguageModel
from probekit.extraction.steering import Steering
from probekit.probing.auroc import critical
from probekit.questions.grading import grade
from probekit.run.directory import Run
from probekit.tokens import FIGURE_TOKENS, TOKENS, decode

#: What is done with a direction: pushed away from errors, pushed towards them, or erased.
CHANGES = ("away", "towards", "erased")

#: What is measured of each direction, in words; the first decides, the others are beside it.
OUTCOMES = {
    "push": "log-probability of the right answer: pushed away from errors, less pushed towards",
    "erasure": "log-probability of the right answer when the direction is erased",
    "wrong": "log-probability of the wrong answers given when the direction is erased",
    "flips": "share of answers that become right or wrong, pushed away from errors",
    "damage": "log-perplexity of one neutral text (so no interval), pushed away from errors",
}

# Text that asks and answers nothing, for what a push does to the model's language.
_NEUTRAL = (
    "The morning was cool, and a thin mist lay over the fields. Two people walked along the "
    "path, talking about the weather and about what they would cook in the evening. Behind them "
    "a dog stopped at every fence, looked through it for a while, and then ran to catch up."
)

_OTHER_LABELS = 5  # directions trained on labels that say nothing


def intervene(
    lm,
    run,
    *,
    split=None,
    layer=None,
    token=None,
    n_questions=24,
    n_random=20,
    dose=4.0,
    flips=True,
    seed=0,
    progress=True,
):
    """Push a model's activations along a probe's direction, and take it out of them.

    From the prompt's last token on, at the run's site of one layer, while the model says the right
    answer, or answers. Beside it stand random directions, and directions of probes that were
    trained on permuted labels.

    Parameters
    ----------
    lm : LanguageModel
        The run's model.
    run : Run
        With activations and a finished probe stage.
    split : str, optional
        Of the grid that the probe is of; by default the strictest there is.
    layer, token : int and str, optional
        The probe's cell. By default the one with the highest AUROC of those in the figure: chosen
        on the same answers, which is no advantage over directions that are not judged by them.
    n_questions : int
        Drawn at random from those with an exact answer, one answer each; 0 takes all.
    n_random : int
        At least 20, as fewer could not show that the probe's direction is unlike them.
    dose : float
        How far to push, in standard deviations of what the probe reads.
    flips : bool
        Answer the questions anew too, which takes longest. Left out where the run's grades are a
        judge's, or of options, which can't be given anew here.
    seed : int
        Random seed.
    progress : bool
        Show a bar.

    Returns
    -------
    Dataset
        Over `direction` (the probe's first; `kind` says probe, random or permuted):
        ``right(direction, change, question)``, by how much the log-probability of the right answer
        changes, in nats, and ``wrong``, of the wrong answer that was given (NaN where it was
        right), for each of `CHANGES`; ``flipped(direction, question)`` and ``damage(direction)``.
        Over `outcome` (`OUTCOMES`): the probe's `effect` with its 95 % interval over questions,
        `effect_low` and `effect_high`; `p_value`, and `p_holm`, corrected for all outcomes but the
        first. `every_effect(outcome, direction)`. The attribute `verdict` says it in words, and
        `suppression` what follows for the conjecture that a layer suppresses wrong content,
        which is a question of its own, so its p-value is not corrected for the others.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the model is not the run's, the run has no probes or no activations, the cell has no
        probe, or a number is out of range.

    Notes
    -----
    In the space where the activations of the cell are white, the probe's direction is a unit vector
    u. To push by one standard deviation adds S^(1/2) u to the activations x, S being their
    covariance (Ledoit and Wolf's estimate): of all changes that the probe reads as one standard
    deviation it is the smallest one, in units of the activations' own spread. To erase takes out
    u's share of S^(-1/2) (x - mean), which is LEACE for one direction (Belrose et al.,
    arXiv 2306.03819). Random directions are drawn uniformly on that space's sphere, and their
    changes are made as long, in Euclidean length, as the probe's. An effect's p-value is its rank
    among theirs, (1 + how many are as large, whatever their sign) / (1 + n_random).

    The right answer is said after the model's own words before its exact answer; where the answer
    was right, it is that answer, else the first that is accepted.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> lm = pk.load_model_of(run)
    >>> effects = pk.intervene(lm, run, n_questions=2, flips=False, progress=False)
    >>> print(effects.attrs["verdict"].split(":")[0])
    It is not shown that the model uses what the probe reads
    """
    arguments.instance("lm", lm, LanguageModel, "from load_model")
    arguments.instance("run", run, Run, 'such as Run("data/runs/cities")')
    if split is not None:
        arguments.text("split", split, such_as="random")
    if layer is not None:
        layer = arguments.whole("layer", layer)
    if token is not None:
        arguments.text("token", token, such_as="last_q")
    n_questions = arguments.whole("n_questions", n_questions)
    n_random = arguments.whole("n_random", n_random, 20, 10_000)
    dose = arguments.number("dose", dose, 1e-3, 1000)
    flips, progress = arguments.flag("flips", flips), arguments.flag("progress", progress)
    random = np.random.default_rng(arguments.seed(seed))
    grid, cell = _probe(lm, run, split, layer, token)
    site = str(grid.attrs["site"])
    X, ids = _activations(run, grid, site, cell)
    directions = _Directions.of(grid, cell, X, n_random, dose, random)
    answers = run.answers().set_index("id").loc[ids]
    # One answer a question: samples of one are near copies, and would count as so many.
    drawn = answers.iloc[random.permutation(len(answers))].drop_duplicates("question")
    drawn = drawn.iloc[: n_questions or len(drawn)]
    answers = answers.loc[answers.index.isin(drawn.index)]
    judged = run.manifest("extract")["parameters"].get("judge")
    flips = flips and not judged and not (answers["kind"] == "choice").any()
    prompts = [lm.tokenize(prompt) for prompt in answers["prompt"]]
    found = examined(lm, prompts, list(answers.index))
    found.refuse([site])
    if found.way != SHARED:
        raise ValueError(
            f"{lm.name} can't go on from a beginning that several rows share, which an "
            f"intervention needs; it is answered by {found.way}. Use another model."
        )
    work = _Work(lm, site, int(cell["layer"]), directions)
    right, wrong, flipped = [], [], []
    length = run.manifest("extract")["parameters"].get("max_new_tokens", 64)
    steps = tqdm(zip(answers.to_dict("records"), prompts, strict=True), total=len(answers),
                 desc="Intervening", unit="question", disable=not progress)  # fmt: skip
    for answer, prompt in steps:
        before, own, accepted = _texts(lm, answer)
        text = prompt[-1:] + before
        right.append(work.moved(prompt[:-1], text, own if answer["correct"] else accepted))
        nothing = np.full_like(right[-1], np.nan)
        wrong.append(nothing if answer["correct"] else work.moved(prompt[:-1], text, own))
        if flips:
            flipped.append(work.flipped(answer, prompt, length))
    damage = work.damage()
    return _effects(directions, right, wrong, flipped, damage, answers, grid, cell, dose)


# What is pushed, and where


def _probe(lm, run, split, layer, token):
    """The grid, and its cell, whose probe is looked at."""
    splits = run.manifest("probe")["results"]["splits"]
    split = split or next(s for s in ("answer", "group", "random", *splits) if s in splits)
    grid = run.grid(split)
    if "coef" not in grid:
        raise ValueError(
            f"{run.path} has no probes: it is an example without them. Make a run of your own, or "
            'open a small example that has: pk.open_run("data/runs/example-cities").'
        )
    for name, own in (("model", lm.name), ("revision", lm.revision)):
        if name in grid.attrs and grid.attrs[name] not in (own, "unknown"):
            raise ValueError(
                f"lm is of {name} {arguments.shown(own)}, and the run's probes are of "
                f"{arguments.shown(grid.attrs[name])}. They can't be used with another model."
            )
    have = [str(each) for each in grid["token"].to_numpy()]
    rows = grid["layer"].to_numpy().tolist()
    drawn = [each for each in have if each in FIGURE_TOKENS] or have
    layers = rows if layer is None else arguments.labels("layer", [layer], rows)
    tokens = drawn if token is None else arguments.labels("token", [token], have)
    known = grid["coef"].notnull().all("feature") & (grid["coef"] != 0).any("feature")
    areas = grid["auroc"].where(known).assign_coords(token=have).sel(layer=layers, token=tokens)
    if not bool(areas.notnull().any()):
        raise ValueError(f"No cell of layer {layer} and token {token} has a probe in this grid.")
    best = areas.stack(cell=("layer", "token")).idxmax("cell").item()
    return grid, {"layer": best[0], "token": best[1]}


def _activations(run, grid, site, cell):
    """Activations of the cell, (answer, feature), of the grid's answers that have its token."""
    whole = run.activations(site)
    ids = [str(each) for each in whole["id"].to_numpy()]
    place = dict(zip(ids, range(len(ids)), strict=True))
    chosen = [place[str(each)] for each in grid["id"].to_numpy()]
    named = whole.assign_coords(token=[str(each) for each in whole["token"].to_numpy()])
    X = named["activation"].sel(layer=cell["layer"], token=cell["token"])
    X = X.transpose("example", "feature").to_numpy().astype(float)[chosen]
    return X, [ids[i] for i in chosen]


class _Directions:
    """Directions at a cell: how each is read, how activations are moved along it, and its kind."""

    def __init__(self, mean, read, pattern, kinds, dose):
        self.mean, self.kinds, self.dose = mean, kinds, dose
        self.read = read  # (direction, feature): what reads it, with a standard deviation of 1
        # (direction, feature): what it reads as 1. The others are made as long as the probe's, so
        # that they are changes of the same size; what is taken out of them is then not all of it.
        length = np.linalg.norm(pattern, axis=1, keepdims=True)
        self.pattern = pattern / length * length[0]
        self.step = dose * self.pattern

    @classmethod
    def of(cls, grid, cell, X, n_random, dose, random):
        """The probe's direction, random ones, and those of probes of permuted labels."""
        from probekit.probing.logistic import fit_logistic

        there = ~np.isnan(X[:, 0])
        X, wrong = X[there], ~grid["correct"].to_numpy().astype(bool)[there]
        covariance, _ = ledoit_wolf(X)
        values, vectors = np.linalg.eigh(covariance)
        values = np.maximum(values, values.max() * 1e-9)
        root, inverse = ((vectors * values**power) @ vectors.T for power in (0.5, -0.5))
        named = grid.assign_coords(token=grid["token"].to_numpy().astype(str))
        weights = [named["coef"].sel(layer=cell["layer"], token=cell["token"]).to_numpy()]
        C = np.ravel(grid.attrs.get("C", 1.0))[0]
        for _ in range(_OTHER_LABELS):
            fit = fit_logistic(X, random.permutation(wrong), C=float(C))
            weights.append(np.ravel(np.asarray(fit.coef)))
        unit = np.array(weights, float) @ root
        unit = np.concatenate([unit[:1], random.standard_normal((n_random, len(root))), unit[1:]])
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        kinds = ["probe", *["random"] * n_random, *["permuted"] * _OTHER_LABELS]
        return cls(X.mean(0), unit @ inverse, unit @ root, np.array(kinds), dose)


class _Work:
    """What is done with all directions at one site of one layer."""

    def __init__(self, lm, site, layer, directions):
        self.lm, self.site, self.layer, self.n = lm, site, layer, len(directions.kinds)
        as_tensor = torch.as_tensor
        step, read, pattern = (
            as_tensor(each, dtype=torch.float32)
            for each in (directions.step, directions.read, directions.pattern)
        )
        nothing = torch.zeros_like(step[:1])
        # A row each: nothing done, then all directions away, towards, and erased.
        self.push = torch.cat([nothing, -step, step, torch.zeros_like(step)])
        self.read = torch.cat([nothing, *[torch.zeros_like(step)] * 2, read])
        self.pattern = torch.cat([nothing, *[torch.zeros_like(step)] * 2, pattern])
        self.mean = as_tensor(directions.mean, dtype=torch.float32)

    @contextmanager
    def changed(self, first, stop):
        """The model with rows `first` to `stop` of what is done, from the first position on."""
        rows = slice(first, stop)

        def change(x):
            push, read, pattern, mean = (
                each.to(x.device)
                for each in (self.push[rows], self.read[rows], self.pattern[rows], self.mean)
            )
            held = torch.einsum("rtf,rf->rt", x.float() - mean, read)
            return x.float() + push[:, None] - held[..., None] * pattern[:, None]

        with Steering(self.lm.model, self.site, self.layer, change):
            yield

    def moved(self, prefix, before, said):
        """How the log-probability of what is said changes, (direction, change)."""
        rows = len(self.push)
        logprobs = said_logprobs(self.lm, prefix, before + said, len(said), rows, self.changed)
        total = logprobs.double().sum(1).numpy()
        return (total[1:] - total[0]).reshape(len(CHANGES), self.n).T

    def damage(self):
        """How the mean log-perplexity of neutral text changes, pushed away: (direction)."""
        ids = self.lm.tokenizer(_NEUTRAL, add_special_tokens=False).input_ids
        rows = 1 + self.n  # nothing, and all directions away
        logprobs = said_logprobs(self.lm, [], ids, len(ids) - 1, rows, self.changed)
        mean = -logprobs.double().mean(1).numpy()
        return mean[1:] - mean[0]

    def flipped(self, answer, prompt, max_new_tokens):
        """Whether an answer becomes right or wrong when pushed away from errors: (direction)."""
        rows = 1 + self.n
        place = self.changed(0, rows)
        right = []
        for ids in answered_alike(self.lm, prompt, rows, place, max_new_tokens):
            text, accepted = decode(self.lm.tokenizer, ids), answer["accepted"].split("|")
            asked = {"question": answer["question"], "kind": answer["kind"]}
            right.append(grade(text, accepted, **asked))
        return np.array(right[1:]) != right[0]


def _texts(lm, answer):
    """Token ids before the exact answer, of it, and of the first accepted answer in its place."""
    positions = dict(zip(TOKENS, answer["positions"], strict=True))
    first, last = positions["exact_answer_first"], positions["exact_answer_last"]
    token_ids = [int(each) for each in answer["token_ids"]]
    before, wanted = answer["response"][: int(answer["answer_start"])], answer["accepted"]
    text = before + wanted.split("|")[0]
    start = int(answer["token_starts"][first])
    # In its context, where the tokenizer splits this as the model did; else by itself, with or
    # without the space before it, which some tokenizers write of their own accord.
    whole = lm.tokenizer(text, add_special_tokens=False).input_ids
    tails = [whole[first:]] if whole[:first] == token_ids[:first] else []
    for alone in (text[start:], text[start:].lstrip()):
        tails.append(lm.tokenizer(alone, add_special_tokens=False).input_ids)
    fitting = [t for t in tails if t and decode(lm.tokenizer, token_ids[:first] + t) == text]
    return token_ids[:first], token_ids[first : last + 1], (fitting or tails)[0]


# What follows


def _effects(directions, right, wrong, flipped, damage, answers, grid, cell, dose):
    """All that was measured, the probe's effects with intervals and p-values, and the verdict."""
    right, wrong = np.stack(right, 2), np.stack(wrong, 2)  # (direction, change, question)
    if not np.isfinite(right).all():
        raise ValueError(
            f"A push of dose={dose:g} makes the model compute what is no number. Give a smaller "
            "dose, or load the model in float32."
        )
    away, towards, erased = range(len(CHANGES))
    kinds = directions.kinds
    per_question = {
        "push": right[:, away] - right[:, towards],
        "erasure": right[:, erased],
        "wrong": wrong[:, erased][:, ~np.isnan(wrong[0, erased])],
    }
    if flipped:
        per_question["flips"] = np.stack(flipped, 1).astype(float)
    names = [name for name in OUTCOMES if name in per_question or name == "damage"]
    effect, low, high, p_value, everyone = [], [], [], [], []
    for name in names:
        values = per_question.get(name, damage[:, None])
        if not values.shape[1]:
            values = np.full((len(kinds), 1), np.nan)
        means = values.mean(1)
        half = np.nan
        if values.shape[1] > 1:
            error = values[0].std(ddof=1) / np.sqrt(values.shape[1])
            half = critical(n_units=values.shape[1]) * error
        others = np.abs(means[kinds == "random"])
        # What rounding makes different is a tie, and so is what is not known.
        as_large = ~(others < abs(means[0]) - 1e-9)
        effect.append(means[0])
        low.append(means[0] - half)
        high.append(means[0] + half)
        found = np.isfinite(means[0])
        p_value.append((1 + as_large.sum()) / (1 + len(others)) if found else np.nan)
        everyone.append(means)
    p_holm = [p_value[0], *_holm(p_value[1:])]
    result = xr.Dataset(
        {
            "right": (("direction", "change", "question"), right),
            "wrong": (("direction", "change", "question"), wrong),
            "damage": ("direction", damage),
            "effect": ("outcome", effect),
            "effect_low": ("outcome", low),
            "effect_high": ("outcome", high),
            "p_value": ("outcome", p_value),
            "p_holm": ("outcome", p_holm),
            "every_effect": (("outcome", "direction"), everyone),
        },
        coords={
            "kind": ("direction", kinds.astype(object)),
            "change": list(CHANGES),
            "id": ("question", np.array(answers.index, object)),
            "correct": ("question", answers["correct"].to_numpy(bool)),
            "outcome": names,
            "description": ("outcome", [OUTCOMES[name] for name in names]),
        },
        attrs={
            **{name: str(grid.attrs[name]) for name in ("model", "site", "split")},
            "layer": int(cell["layer"]),
            "token": str(cell["token"]),
            "dose": dose,
            "n_random": int((kinds == "random").sum()),
        },
    )
    if flipped:
        result["flipped"] = ("direction", "question"), per_question["flips"]
    result.attrs |= {"verdict": _verdict(result), "suppression": _suppression(result)}
    return result


def _holm(p):
    """P-values that hold together, by Holm's steps; those that are not known stay so."""
    p = np.asarray(p, float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    found, highest = np.full(len(p), np.nan), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(known) - rank) * p[i]))
        found[i] = highest
    return found.tolist()


def _verdict(result):
    """Whether it is shown that the model uses what the probe reads."""
    first = result.isel(outcome=0)
    values = (float(first[name]) for name in ("effect", "effect_low", "effect_high"))
    effect, low, high = (f"{value:+.2f}" for value in values)
    about = result.attrs
    where = f"layer {about['layer']}, {about['token']}"
    measured = (
        f"pushing the activations by {about['dose']:g} standard deviations away from what the "
        f"probe of {where} reads as an error, rather than towards it, changes the log-probability "
        f"of the right answer by {effect} [{low}, {high}] nats"
    )
    sizes, kind = np.abs(first["every_effect"].to_numpy()), result["kind"].to_numpy()
    random, permuted = sizes[kind == "random"], sizes[kind == "permuted"].max(initial=0)
    p = float(first["p_value"])
    beside = (
        f"{about['n_random']} random directions of the same length change it by "
        f"{random.mean():.2f} on average and by {random.max():.2f} at most (p = {p:.2g}), those "
        f"of {_OTHER_LABELS} probes of permuted labels by {permuted:.2f} at most"
    )
    if not (p <= 0.05 and sizes[0] > permuted):
        return f"It is not shown that the model uses what the probe reads: {measured}; {beside}."
    side = "but its sense differs between questions"
    if float(first["effect_low"]) > 0:
        side = "as it should"
    elif float(first["effect_high"]) < 0:
        side = "but in the wrong sense"
    return f"The model uses what the probe reads, {side}: {measured}; {beside}."


def _suppression(result):
    """Whether it is shown that what this layer holds keeps wrong answers down."""
    one, about = result.sel(outcome="wrong"), result.attrs
    n = int((~result["correct"]).sum())
    values = [float(one[name]) for name in ("effect", "effect_low", "effect_high")]
    effect, low, high = (f"{value:+.2f}" for value in values)
    p = float(one["p_value"])
    if not np.isfinite([p, *values]).all():
        few = (
            "no answer was wrong"
            if not n
            else f"{n} wrong answer{'s are' * (n > 1) or ' is'} too few"
        )
        return f"That later layers suppress wrong content was not tested: {few}."
    measured = (
        f"erasing what the probe of layer {about['layer']}, {about['token']} reads changes the "
        f"log-probability of the {n} wrong answers that were given by {effect} [{low}, {high}] "
        f"nats (a test by itself, p = {p:.2g} among {about['n_random']} random changes of the same "
        "size)"
    )
    above, below = float(one["effect_low"]) > 0, float(one["effect_high"]) < 0
    if not (p <= 0.05 and (above or below)):
        return f"That later layers suppress wrong content is not shown: {measured}."
    if above:
        return f"In line with later layers suppressing wrong content, {measured}."
    return f"Later layers do not suppress wrong content here, they promote it: {measured}."
