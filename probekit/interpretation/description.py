"""A grid's description: a paragraph, the reference's sections, details in tables; all computed.

A difference is stated only if it holds with all comparisons of its kind taken together, and the
kinds share one error rate: at most one in twenty descriptions of pure noise states any difference.
Tokens are compared on the answers that have all of them; a cell that is only listed has its value
and its interval in the chart.
"""

from collections.abc import Mapping
from itertools import chain, combinations, pairwise, product

import numpy as np

from probekit import arguments
from probekit.interpretation import observations
from probekit.interpretation.claims import check_same_run, read_claims
from probekit.interpretation.contrasts import (
    BANDS,
    MIN_PER_CLASS,
    areas,
    with_training_apart,
)
from probekit.interpretation.headlines import beats_chance
from probekit.interpretation.observations import GROUPS, View, above_chance, cell, place
from probekit.interpretation.wording import (
    area,
    at_most,
    by_how_much,
    code,
    count,
    escape,
    listing,
    number,
    percent,
    sentence,
    spans,
    table,
)
from probekit.probing.baselines import CONTROLS, check_controls, gain_over_controls
from probekit.probing.detection import Detector
from probekit.probing.folds import example_groups, held_out_splits
from probekit.probing.simultaneous import largest_error
from probekit.probing.summary import left_out_in_words
from probekit.tokens import FIGURE_TOKENS

# Kinds of difference that share one error rate.
_KINDS = 6

# Chance that a description of pure noise states any difference.
_ALPHA = 0.05

_SINGLE = (
    "**Held-out answers: not testable here.** Most answers occur only once, so holding answers out "
    "is nearly the same as random folds. It can't show whether probes read the question's topic."
)

_SHORT_SINGLE = "As most answers occur only once, holding answers out would test nothing."

# What a detector's folds hold out, in words.
_HELD_OUT = {"answer": " with answers held out", "group": " with groups of questions held out"}

# Of the cells below chance, how many are named.
_NAMED = 5

# Of the pairs of tokens that are often one, how many are named.
_PAIRS = 1

# Share of the answers in which two columns are one token, from which on that is said.
_OFTEN = 0.25

_AREA = ("auroc", "auroc_low", "auroc_high")


def describe(grid, controls=None, held_out=None, detector=None, intervention=None):
    """Describe a grid in words: in a paragraph, and in the sections of the reference's.

    Parameters
    ----------
    grid : Dataset
        From `probe_grid`.
    controls : Dataset, optional
        From `controls`, of this grid: what detects errors with no activations.
    held_out : Dataset, optional
        The same run's grid with ``split="answer"``, where this one's split is random; or with
        ``split="group"``, where answers can't be held out.
    detector : Detector, optional
        From `detector`, of this grid or of held_out: all its cells as one detector.
    intervention : mapping, optional
        What `intervene` found, with its texts ``verdict`` and ``suppression``: the attributes of
        its result, or what the intervene stage's manifest has of it. They stand in place of what
        is only conjectured otherwise.

    Returns
    -------
    str
        Markdown: a paragraph, the sections of the reference's description, and details. Names from
        outside are escaped.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, or another than the grid is of other examples.

    Notes
    -----
    A difference is stated only if it holds with all comparisons of its kind taken together. These
    are, over all pairs: cells, for the peak; the layers of a token, for all tokens; bands of layers
    at the last eight tokens; layers' means. Also each band with the one before and its groups of
    tokens with each other; `last_q` with the mean of the answer's five tokens, in every layer and
    on average; and, with `held_out`, the means of all bands and groups. The kinds share one error
    rate. A level's interval is its own; a difference's holds for all of its kind at once.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> text = pk.describe(run.grid("answer"), controls=run.controls("answer"))
    >>> print(text.splitlines()[2])
    In 2 of the figure's 9 cells, a probe tells wrong answers from right ones better
    than chance. It does so best at layer 15, `last_q` (AUROC 0.73 [0.58, 0.84],
    chosen and measured on different answers), but no other cell can be told from
    it. All controls together, which see no activations, reach 0.77 [0.67, 0.84],
    and no cell exceeds that. No exact answer is in both training and test folds.
    """
    arguments.grid(grid, ("score", "correct", "n_examples"))
    if controls is not None:
        check_controls(controls, (*_AREA, "chance", "score"))
    if not (detector is None or isinstance(detector, Detector)):
        raise TypeError(
            f"detector must be from pk.detector(grid), got {arguments.shown(detector)}."
        )
    check_same_run(grid, controls, held_out, detector)
    tested = _tested(intervention)
    kinds = _KINDS + 2 * (held_out is not None)
    view = View.of(grid, _ALPHA / kinds)
    few = f"no cell has {MIN_PER_CLASS} wrong and {MIN_PER_CLASS} right answers"
    nothing = [f"{sentence(few)}, so nothing is stated."]
    lead = [f"Nothing is shown: {few}, so nothing can be measured."]
    sections = {
        "Overview": _overview(view),
        "Components/Axes": [_axes(view)],
        "Detailed Analysis": nothing,
        "Specific Data Points": nothing,
        "Key Observations": nothing,
        "Interpretation": ["There is nothing to interpret."],
    }
    if view.usable.any():
        n_above, rule = above_chance(view)
        sections["Overview"] += _below_chance(view.areas) + _pooled(detector, view.grid)
        bands_differ, means, differences = _bands(view)
        *peak, highest = observations.peak(view)
        located, located_text, peaks = observations.token_peaks(view)
        said = {
            "peak": peak,
            "token_peaks": (located, located_text),
            "from_the_end": observations.from_the_end(view),
            "lowest_layer": observations.lowest_layer(view),
            "last_q": observations.last_q(view),
        }
        found = {name for name, (differs, _) in said.items() if differs}
        found |= {"bands"} if bands_differ else set()
        none = [] if found else ["**Measured.** There are no clear differences."]
        bar, controls_text = _against_controls(view, controls)
        left, held_out_texts = _against_held_out(view, held_out)
        lead = [_shown(view, n_above, detector)]
        lead += [f"{highest}." if n_above else _no_higher(view), bar]
        lead += _left_and_added(left, held_out, detector, view.grid)
        sections |= {
            "Detailed Analysis": means,
            "Specific Data Points": [_points(view)],
            "Key Observations": ["\n".join(f"* {text}" for _, text in said.values())],
            "Interpretation": [
                *none,
                controls_text,
                *held_out_texts,
                *tested,
                _conjecture(n_above, found, bool(tested)),
                _unknown(bool(tested)),
            ],
            "Details": [
                _how_sure(view, rule),
                *_on_which_answers(view),
                *differences,
                *peaks,
            ],
        }
    parts = chain.from_iterable((f"### {title}", *text) for title, text in sections.items())
    return "\n\n".join(["## Heatmap: Layer vs. Token Correlation", " ".join(lead), *parts]) + "\n"


def _shown(view, n_above, detector):
    """The first sentence: in how many cells errors show, or that nothing is shown."""
    cells = count(view.areas.usable.sum(), "cell")
    if n_above:
        return (
            f"In {n_above} of the figure's {cells}, a probe tells wrong answers from right ones "
            "better than chance."
        )
    # What all cells tell together is said elsewhere, and this must not deny it.
    single = " in any single cell" if detector is not None and beats_chance(detector) else ""
    return (
        f"Nothing is shown{single}: in none of the figure's {cells} does a probe tell wrong "
        "answers from right ones better than chance."
    )


def _no_higher(view):
    """Where the highest cell is, if none is shown to be above chance."""
    row, column, value, _ = view.listed
    i = value.argmax()
    return (
        f"The highest, {place(view.compared, row[i], column[i])} (AUROC {number(value[i])}), is no "
        "higher than chance allows."
    )


def _left_and_added(left, held_out, detector, grid):
    """What holding answers out leaves, and whether all cells together add to the controls."""
    if detector is None or _mostly_single(grid) or not np.isfinite(detector.added_low):
        return [left]
    split = (detector.origin or {}).get("split")
    shown = "add" if detector.added_low > 0 else "are not shown to add"
    added = f"all cells together {shown} to the controls."
    if held_out is not None and split == held_out.attrs.get("split"):
        return [f"{left.removesuffix('.')}, and {added}"]
    if split in _HELD_OUT:
        return [left, f"{sentence(_HELD_OUT[split].strip())}, {added}"]
    return [left, sentence(added)]


def _overview(view):
    names = ("model", "site", "split", "protocol")
    of = "; ".join(f"{name}: {escape(view.grid.attrs.get(name, 'unknown'))}" for name in names)
    scored = view.grid["score"].notnull().any(("layer", "token")).to_numpy()
    n_wrong = int((scored & ~view.grid["correct"].to_numpy().astype(bool)).sum())
    share = f" ({percent(n_wrong / scored.sum())})" if scored.any() else ""
    layers, tokens = count(len(view.areas.layers), "layer"), count(len(view.areas.tokens), "token")
    texts = [
        f"The heatmap shows, for {layers} and {tokens}, how well a linear probe of the model's "
        "activations tells wrong answers from right ones: the AUROC (0.5 is chance, 1.0 perfect), "
        "where the reference speaks of correlation.",
        f"{sentence(of)}. Scored are "
        f"{scored.sum()} answers, {n_wrong} wrong{share}, each by a probe not trained "
        f"on it.{left_out_in_words(view.grid)}",
    ]
    if view.areas.usable.any():
        mean, units = view.areas.mean(view.areas.usable)
        value = view.areas.value[view.areas.usable]
        texts[-1] += (
            f" The AUROCs range from {number(value.min())} to {number(value.max())}; their mean is "
            f"{area(mean, *view.areas.interval(mean, units))}."
        )
    return texts


def _below_chance(areas):
    """A warning of cells that are worse than chance, if there are any."""
    _, high = areas.intervals()
    row, column = np.nonzero(areas.usable & (high < 0.5))
    if not len(row):
        return []
    lowest = np.argsort(areas.value[row, column])[:_NAMED]
    cells = [(areas, row[i], column[i]) for i in lowest]
    named = [f"{place(*each)} ({cell(*each)})" for each in cells]
    more = " the lowest are" if len(row) > _NAMED else ""
    return [
        f"**Warning.** {count(len(row), 'cell')} {'is' if len(row) == 1 else 'are'} below chance, "
        f"{'its' if len(row) == 1 else 'their'} whole interval under 0.5:{more} {listing(named)}. "
        f"Of {areas.usable.sum()} cells without any signal, about {0.025 * areas.usable.sum():.0f} "
        "would be. More than that is a sign that training and test folds lean to opposite sides."
    ]


def _pooled(detector, grid):
    """What all cells together detect, as one detector; nothing of its gain where that is open."""
    if detector is None:
        return []
    held = _HELD_OUT.get((detector.origin or {}).get("split"), "")
    n, others = "", [code(t) for t in detector.tokens or () if t not in FIGURE_TOKENS]
    if others:  # so that nobody wonders why these are more than the figure's
        n = f" {detector.cells.sum()}"
        held = f" (with those of {listing(others)}){held}"
    text = (
        f"**All{n} cells as one detector**{held}: AUROC "
        f"{area(detector.auroc, detector.auroc_low, detector.auroc_high)}"
    )
    gain = (detector.gain, detector.gain_low, detector.gain_high)
    if not np.isfinite(gain).all() or _mostly_single(grid):
        return [f"{text}."]

    def signed(values):
        value, *ends = (number(each, "+") for each in values)
        return f"{value} [{', '.join(ends)}]"

    text += f". Difference to all controls together: {signed(gain)}"
    added = (detector.added, detector.added_low, detector.added_high)
    if np.isfinite(added).all():
        text += f"; added to them: {signed(added)}"
    text += "."
    return [text]


def _axes(view):
    layers, tokens = view.areas.layers, np.array(view.areas.tokens)
    across = f'* **X-axis (horizontal):** "Token": {listing(map(code, tokens))}.'
    absent = [code(token) for token in FIGURE_TOKENS if token not in tokens]
    if absent:
        across += f" The grid lacks {listing(absent)}."
    down = f'* **Y-axis (vertical):** "Layer", from {layers[0]} at the top to {layers[-1]}.'
    colour = "* **Colour scale (right):** the AUROC, from 0.5 (light blue) to 1.0 (dark blue)."
    usable, sizes = view.areas.usable, view.of_tokens("n_examples")
    low = int((view.areas.value[usable] < 0.5).sum())
    if low:
        colour += f" {low} of {len(sizes)} cells are below 0.5."
    lines = [across, down, colour, "* **Legend position:** top right."]
    if len(sizes):
        n = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
        text = f"* **Answers in a cell:** {n}."
        if not usable.all():
            empty = [code(token) for token in tokens[~usable.any(0)]]
            where = f", among them all of {listing(empty)}," if empty else ""
            text += (
                f" {(~usable).sum()} cells{where} have fewer than {MIN_PER_CLASS} wrong or "
                "right answers and are left out below."
            )
        if sizes.min() < sizes.max() or not usable.all():
            lines.append(text)
    lines += _same_tokens(view.grid, tokens)
    answers = _group_sizes(view.grid, "answer")
    if answers is not None:
        lines.append(
            f"* **Different answers:** {len(answers)}; {(answers == 1).sum()} given once, the "
            f"commonest {answers.max()} times."
        )
    return "\n".join(lines)


def _same_tokens(grid, tokens):
    """Which columns are the same token in many answers, if it is known."""
    if "same_token" not in grid:
        return []
    names = [str(token) for token in grid["token"].to_numpy()]
    share = grid["same_token"].transpose("token", "other_token").to_numpy()
    pairs = [(share[names.index(a), names.index(b)], a, b) for a, b in combinations(tokens, 2)]
    often = sorted((each for each in pairs if each[0] >= _OFTEN), reverse=True)
    if not often:
        return []
    told = [f"{code(a)} and {code(b)} ({percent(s)} of answers)" for s, a, b in often[:_PAIRS]]
    told += [count(len(often) - _PAIRS, "more pair")] * (len(often) > _PAIRS)
    return [f"* **Often the same token,** so one measurement, not two: {listing(told)}."]


def _how_sure(view, rule):
    """What the intervals are of, and what they hold for."""
    split = view.grid.attrs.get("split", "random")
    sizes = _group_sizes(view.grid, split)
    unit, kept = "answers", ""
    if sizes is not None:
        what = {"random": "groups of equal questions", "group": "groups of questions"}
        what = what.get(split, "groups of answers")
        unit = f"{len(sizes)} {what}"
        kept = f" ({(sizes == 1).sum()} of one answer only; the largest has {sizes.max()})"
    reach = {
        "random": "new questions with the same answers, not for other answers",
        "answer": "other answers",
        "gold": "other accepted answers",
        "group": "other groups of questions",
    }.get(split, f"others of {escape(split)}")
    if split == "random" and _mostly_single(view.grid):
        reach = "new questions"
    text = f"In brackets are 95 % intervals over {unit}{kept}. They hold for {reach}"
    together = " A difference is stated only if it holds with all of its kind taken together"
    if view.areas.counts_training:
        return (
            f"{text}, and count which answers were tested and which trained the probes.{together}: "
            "of descriptions of pure noise, at most one in twenty states any, and at most one in "
            f"twenty a cell above chance (by {rule})."
        )
    return f"{text}.{together}." + (
        " This grid does not say how much the probes depend on which answers trained them, so "
        "differences are stated by chance more often than in one of twenty descriptions. A grid "
        f"made with this version of probekit says it. A cell is above chance by {rule}."
    )


def _on_which_answers(view):
    """Which answers the tokens are compared on, where those are not all."""
    shared = view.shared
    texts = []
    if shared.n < shared.n_any:
        texts.append(
            f"Tokens are compared on the {shared.n} answers that have all of them "
            f"({shared.n_rarest} have the rarest alone), so means, peaks and differences are of "
            "these. The cells that the reference names, and the range of all, are on all answers "
            "that have the token, as in the chart."
        )
    if shared.left_out:
        texts.append(
            f"Left out of the comparisons {'is' if len(shared.left_out) == 1 else 'are'} "
            f"{listing(map(code, shared.left_out))}: fewer than {MIN_PER_CLASS} wrong or right "
            "answers would have all tokens."
        )
    return [" ".join(texts)] if texts else []


def _bands(view):
    """Whether any change or difference of bands is clear; their means, and what is clear."""
    labels, names = list(view.bands), list(view.groups)
    mean = {}
    for label, name in product(labels, names):
        cells = view.bands[label] & view.groups[name] & view.usable
        if cells.any():
            mean[label, name] = view.compared.mean(cells)
    pairs = [((b, g), (a, g)) for a, b in pairwise(labels) for g in names]
    pairs += [((b, g), (b, h)) for b in labels for i, g in enumerate(names) for h in names[i + 1 :]]
    pairs = [(one, other) for one, other in pairs if one in mean and other in mean]
    clear, marks = {}, {}
    if pairs:
        difference = np.array([mean[one][0] - mean[other][0] for one, other in pairs])
        units = np.array([mean[one][1] - mean[other][1] for one, other in pairs])
        half_width = view.compared.half_width(units, largest_error(units, view.alpha))
        for (one, other), d, half in zip(pairs, difference, half_width, strict=True):
            if abs(d) > half and one[1] == other[1]:
                marks[one] = "↑" if d > 0 else "↓"
            elif abs(d) > half:
                two = (one[1], other[1]) if d > 0 else (other[1], one[1])
                clear.setdefault(two, []).append((abs(d), half, one[0]))
    means = _means(view, mean, marks)
    if not clear and not marks:
        none = "No band can be distinguished from the one before, and no group from another."
        return False, [*means, none], []
    rows = []
    for two, found in sorted(clear.items(), key=lambda item: -max(item[1])[0]):
        size, half, label = max(found)
        cells = np.any([view.bands[each] for _, _, each in found], axis=0)
        layers = spans(view.areas.layers[view.bands[label].any(1)])
        largest = f"{by_how_much(size, half)} ({layers})"
        rows.append([*map(code, two), spans(view.areas.layers[cells.any(1)]), largest])
    header = [
        "Clearly higher",
        "than",
        "in layers",
        "Largest difference of mean AUROCs (in layers)",
    ]
    return True, means, [table(header, rows)] if rows else []


def _means(view, mean, marks):
    """The mean of each group of tokens in each band, and what the table shows."""
    ends = {each: view.compared.interval(*found) for each, found in mean.items()}
    reach = [max(mean[e][0] - low, high - mean[e][0]) for e, (low, high) in ends.items()]
    title = f"Mean AUROC{view.on_shared} (a level; 95 % intervals {at_most(reach)})."
    if marks:
        title += " ↑ and ↓: clearly above or below the band before."
    rows = [
        [spans(view.areas.layers[band.any(1)]), label]
        + [
            f"{number(mean[label, n][0])}{marks.get((label, n), '')}" if (label, n) in mean else "–"
            for n in view.groups
        ]
        for label, band in view.bands.items()
    ]
    return [title, table(["Layers", "The reference's", *map(code, view.groups)], rows)]


def _points(view):
    """The cells that the reference names, and the extremes."""
    rows = []
    for claim in read_claims()["claims"]:
        if claim["section"] != "Specific Data Points":
            continue
        (rule,) = claim["rules"]
        chosen = view.areas.at(rule["depth"], rule["tokens"])
        where, value = code(rule["tokens"][0]), "not in the grid"
        if (chosen & view.areas.usable).any():
            ((row, column),) = np.argwhere(chosen)
            where, value = sentence(place(view.areas, row, column)), cell(view.areas, row, column)
        rows.append([where, value, escape(claim["text"].split(":")[-1].strip())])
    return table(["Cell", "AUROC (a level)", "The reference's, at this depth"], rows)


def _against_controls(view, controls):
    """What the controls reach, and how many cells exceed it: in a sentence, and in full."""
    if controls is None:
        return "Whether controls that see no activations do as well was not checked.", (
            "**Not checked: controls.** Whether the answer's identity, the question's words, the "
            "response's length or the output probabilities detect errors as well was not compared."
        )
    known = controls.sel(control=(~controls["chance"] & controls["auroc"].notnull()).to_numpy())
    known = known.sortby("auroc", ascending=False)
    if not known.sizes["control"]:
        return "No control has an AUROC, so nothing was compared with one.", (
            "**Controls.** None has an AUROC, so nothing was compared."
        )
    names = known["control"].to_numpy().astype(str).tolist()
    each = {name: area(*known[list(_AREA)].sel(control=name).to_array()) for name in names}
    word = {name: escape(CONTROLS[name][0] if name in CONTROLS else name) for name in names}
    bar = "all" if "all" in names else names[0]
    who = "All controls together" if bar == "all" else f"The best control, {word[bar]}"
    reach = f"{who}, which see{'s' * (bar != 'all')} no activations, reach{'es' * (bar != 'all')}"
    reach += f" {each[bar]}"
    others = [name for name in names if name not in ("all", bar)]
    told = [name for i, name in enumerate(others) if name == "answer" or not i]
    alone = [f"{word[name]} {each[name]}" for name in told]
    last = "all together" if bar == "all" else f"the best, {word[bar]},"
    text = "**Controls** see no activations. Their AUROC: "
    text += f"{listing([*alone, f'{last} {each[bar]}'])}."
    if _mostly_single(view.grid):
        return f"{reach}; what the probes add to that can't be told.", (
            f"{text} There is no verdict on what the probes add: nearly every answer occurs once, "
            "so they may read the question's topic, which nothing here would show."
        )
    gains = gain_over_controls(view.grid, controls)
    gains = gains.sel(token=list(view.areas.tokens)).sortby("layer")
    names = ("gain", "gain_low_simultaneous", "gain_high_simultaneous")
    gain, low, high = (gains[name].transpose("layer", "token").to_numpy() for name in names)
    there = view.areas.usable & ~np.isnan(gain)
    if not there.any():
        few = "Too few examples have both a control's score and a cell's."
        return f"{reach}; too few answers have both to compare.", f"{text} {few}"
    gain, low, high = gain[there], low[there], high[there]
    above, below, i = int((low > 0).sum()), int((high < 0).sum()), int(gain.argmax())
    verb = "exceeds" if above == 1 else "exceed"
    largest = f"{number(gain[i], '+')} [{number(low[i], '+')}, {number(high[i], '+')}]"
    short = f"{reach}, and {f'{above} of the cells' if above else 'no cell'} "
    short += "exceeds that." if above <= 1 else "exceed that."
    return short, text + (
        f" Of {count(len(gain), 'cell')}, {above or 'none'} {verb} that, "
        f"{below} {'falls' if below == 1 else 'fall'} short of it, and {len(gain) - above - below} "
        f"can't be told from it; the largest difference is {largest}."
    )


def _mostly_single(grid):
    """Whether most answers occur once, so that holding answers out changes nothing."""
    sizes = _group_sizes(grid, "answer")
    return sizes is not None and bool((sizes == 1).sum() > sizes.sum() / 2)


def _group_sizes(grid, split):
    """How many answers each group has that a split keeps together; None without groups."""
    if split == "answer" and not {"answer", "exact_answer"} & {*grid.coords}:
        return None
    groups = example_groups(grid, split)
    return None if groups is None else np.unique(groups, return_counts=True)[1]


def _against_held_out(view, held_out):
    """What is left with no answer, or group, in both training and test folds: short, in full."""
    split = (view.grid if held_out is None else held_out).attrs.get("split", "random")
    by_name = split in ("answer", "gold")
    if split == "answer" and _mostly_single(view.grid):
        return _SHORT_SINGLE, [_SINGLE]
    impossible = [] if by_name else _not_possible(view.grid)
    if held_out is not None:
        short, text = _what_is_left(view, held_out)
        return short, [text, *impossible]
    if by_name:
        which = "exact" if split == "answer" else "accepted"
        return f"No {which} answer is in both training and test folds.", [
            f"**Held-out answers.** In this grid no {which} answer is in both training and test "
            "folds, so a probe can't have learned which answers tend to be wrong."
        ]
    if impossible:
        return (
            _SHORT_SINGLE if impossible == [_SINGLE] else "Answers could not be held out."
        ), impossible
    return "Whether it is the same with answers held out was not checked.", [
        "**Not checked: held-out answers.** A probe that has seen the same answer in training "
        "may only have learned which answers tend to be wrong."
    ]


def _not_possible(grid):
    """Why no grid with answers held out can be made of these answers, or is of no use, if so."""
    if not {"answer", "exact_answer"} & {*grid.coords}:
        return []
    if _mostly_single(grid):
        return [_SINGLE]
    folds = max(5 * (grid.attrs.get("protocol") == "published"), grid.attrs.get("folds", 5), 2)
    obstacle = held_out_splits(grid, folds=folds, seed=grid.attrs.get("seed", 0))["answer"]
    return [f"**Held-out answers: not possible.** {escape(obstacle)}"] if obstacle else []


def _what_is_left(view, held_out):
    """How much lower the grid is with answers or groups held out: in a sentence, and in full."""
    row_of = {each: i for i, each in enumerate(held_out["id"].to_numpy())}
    held_out = held_out.isel(example=[row_of[each] for each in view.grid["id"].to_numpy()])
    groups = example_groups(held_out, held_out.attrs.get("split", "random"))
    here, there = (areas(grid, view.areas.tokens, groups) for grid in (view.grid, held_out))
    if here.tokens != there.tokens or not np.array_equal(here.layers, there.layers):
        raise ValueError(
            "grid and held_out have different layers or tokens. Take both from the same run."
        )
    n = len(view.grid["example"]) if groups is None else len(np.unique(groups))
    here, there = with_training_apart(here, there, n)
    groups_of_tokens = {name: here.at(tokens=tokens) for name, tokens in GROUPS.items()}
    sets = {
        f"{code(name)} in {view.layers_of(band)}": group & band & here.usable & there.usable
        for name, group in groups_of_tokens.items()
        for band in map(here.at, BANDS.values())
    }
    sets = {where: cells for where, cells in sets.items() if cells.any()}
    if not sets:
        none = "**Held-out answers.** The two grids have no cell with an AUROC in common."
        return "With answers held out no cell could be compared.", none
    value, units = here.means(sets.values())
    value_there, units_there = there.means(sets.values())
    difference, paired = value_there - value, units_there - units
    half_width = here.half_width(paired, largest_error(paired, view.alpha))
    fell = np.flatnonzero(difference < -half_width)
    split = held_out.attrs.get("split", "unknown")
    what = "groups of questions" if split == "group" else "answers"
    text = f"**Held-out {what}** (split: {escape(split)}). "
    left = View.of(held_out, view.alpha)
    if len(fell):
        i = fell[difference[fell].argmin()]
        cells = list(sets.values())[i]
        before, after = (number(each.mean(cells)[0]) for each in (view.areas, left.areas))
        text += (
            f"Of {len(sets)} means of a band and a group, {len(fell)} "
            f"{'is' if len(fell) == 1 else 'are'} lower, most of all {list(sets)[i]}, by "
            f"{by_how_much(difference[i], half_width[i])}, from {before} to {after}."
        )
    else:
        text += "No mean of a band and a group is lower."
    row, column, value, _ = left.listed
    if not len(row):
        return f"With {what} held out no cell could be measured.", text
    above, _ = above_chance(left)
    on = ", on the answers that have all tokens," if left.on_shared else " left"
    i = value.argmax()
    best = cell(left.compared, row[i], column[i])
    text += f" The highest cell{on} is {place(left.compared, row[i], column[i])}: {best}."
    cells = f"{above} of {left.areas.usable.sum()} cells are" if above else "no cell is"
    short = f"With {what} held out, {cells} above chance."
    return short, " ".join([text, *_below_chance(left.areas)])


def _tested(intervention):
    """What was found by intervening, if it was; the texts may be anybody's."""
    if intervention is None:
        return []
    names = ("verdict", "suppression")
    if not isinstance(intervention, Mapping) or not all(
        isinstance(intervention.get(name), str) for name in names
    ):
        raise TypeError(
            "intervention must be the attributes of what pk.intervene gives, or "
            'run.manifest("intervene")["results"], with verdict and suppression; got '
            f"{arguments.shown(intervention)}."
        )
    return [f"**Tested by intervening.** {' '.join(escape(intervention[n]) for n in names)}"]


def _unknown(tested):
    """What no grid shows, and what no intervention has."""
    open_ones = "Whether the model uses what a probe reads, whether low cells lack it"
    if tested:
        open_ones = "Whether low cells lack what a probe reads elsewhere"
    return (
        f"**What the data can't tell.** {open_ones} or only a linear form of it, and whether other "
        "models, questions or prompts give the same. The values are no attention weights."
    )


def _conjecture(n_above, found, tested):
    text = ""
    if n_above:
        text += (
            " The activations may hold whether the answer is right, or only which answer it is or "
            "how well known its subject is."
        )
    if found & {"peak", "token_peaks", "lowest_layer", "bands"}:
        text += (
            " Where the AUROC is higher, a probe may read it more easily; the model need not use "
            "it there."
        )
    if "from_the_end" in found:
        text += " Later layers may carry along what was said before"
        text += "." if tested else ", or, as the reference suggests, suppress wrong content."
    if "last_q" in found:
        text += " `last_q` may lack only what the answer's own tokens say."
    if not text:
        return "**Conjecture.** None: nothing was found that needs an explanation."
    return "**Conjecture, not tested here.**" + text
