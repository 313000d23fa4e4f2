"""What else could explain a grid: which controls and splits were compared, and what they gave."""

import numpy as np
import xarray as xr

from probekit import checks
from probekit.contrasts import areas, largest_error
from probekit.controls import best_control, check_controls
from probekit.grid import example_groups
from probekit.observations import CHANCE_ALPHA, View, above_chance, group_name
from probekit.words import area, by_how_much, change, escape

#: What each control is called in a sentence.
NAMES = {
    "answer": "how often the answer is right elsewhere",
    "question": "the question's words",
    "length": "the response's length",
    "logprob_mean": "the response's mean log-probability",
    "logprob_min": "the response's least log-probability",
    "answer_logprob_mean": "the exact answer's mean log-probability",
    "answer_logprob_min": "the exact answer's least log-probability",
    "p_true": "the model's own P(True)",
}


def check_same_run(grid, controls, held_out):
    """Refuse controls, or a grid of held-out answers, that are not of this grid's examples."""
    if controls is not None:
        check_controls(controls, ("auroc", "auroc_low", "auroc_high", "chance", "score"))
    if held_out is not None:
        checks.grid(held_out, ("score", "correct", "n_examples"), name="held_out")
    for name, other in (("controls", controls), ("held_out", held_out)):
        if other is None:
            continue
        if not all("id" in each.coords for each in (grid, other)):
            raise ValueError(f"grid and {name} need the coordinate id, to match their examples.")
        if sorted(grid["id"].to_numpy()) != sorted(other["id"].to_numpy()):
            raise ValueError(
                f"grid and {name} have different examples. Take both from the same run."
            )
    if controls is not None and not np.array_equal(grid["id"], controls["id"]):
        raise ValueError("The controls have the examples in another order. Make them anew.")


def against_controls(view, controls):
    """What the best control reaches, and how many cells exceed it.

    Parameters
    ----------
    view : View
    controls : Dataset, optional
        From `controls`, of the view's grid.

    Returns
    -------
    str
    """
    if controls is None:
        return (
            "**Not checked: controls.** Whether the answer's identity, the question's words, the "
            "response's length or the output probabilities detect errors as well was not compared."
        )
    known = controls.sel(control=~controls["chance"].to_numpy()).sortby("auroc", ascending=False)
    known = known.sel(control=known["auroc"].notnull().to_numpy())
    if not known.sizes["control"]:
        return "**Controls.** None has an AUROC, so nothing was compared."
    each = [
        f"{NAMES.get(str(name), escape(name))} {area(*values)}"
        for name, *values in zip(
            known["control"].to_numpy(),
            known["auroc"].to_numpy(),
            known["auroc_low"].to_numpy(),
            known["auroc_high"].to_numpy(),
            strict=True,
        )
    ]
    best = best_control(controls)
    difference, half_width = _gain(
        view, controls["score"].sel(control=best).reset_coords(drop=True)
    )
    if not difference.size:
        return "**Controls.** Too few examples have both a control's score and a cell's."
    above, below = int((difference > half_width).sum()), int((difference < -half_width).sum())
    highest = int(difference.argmax())
    return (
        f"**Controls, with no activations.** They detect errors with an AUROC of: "
        f"{'; '.join(each)}. Of {len(difference)} cells, {above} exceed the best of these, "
        f"{below} fall short of it, and {len(difference) - above - below} can't be told from it; "
        f"the largest gain is {change(difference[highest], half_width[highest])}."
    )


def _gain(view, rival):
    """Each usable cell's area minus the control's on the same examples, and half its interval."""
    both = view.grid["score"].notnull() & rival.notnull()
    cells, control = (
        areas(view.grid.assign(score=score.where(both)), view.areas.tokens)
        for score in (view.grid["score"], xr.zeros_like(view.grid["score"]) + rival)
    )
    chosen = cells.usable
    difference = (cells.value - control.value)[chosen]
    influence = (cells.influence - control.influence)[chosen]
    return difference, cells.half_width(influence, largest_error(influence, view.alpha))


def against_held_out(view, held_out):
    """What is left of the grid when no answer is in both training and test folds.

    Parameters
    ----------
    view : View
    held_out : Dataset, optional
        The same examples' grid with ``split="answer"``.

    Returns
    -------
    str
    """
    if held_out is None:
        if view.grid.attrs.get("split") == "answer":
            return (
                "**Held-out answers.** In this grid no exact answer is in both training and test "
                "folds, so a probe can't have learned which answers tend to be wrong."
            )
        return (
            "**Not checked: held-out answers.** A probe that has seen the same answer in training "
            "may only have learned which answers tend to be wrong."
        )
    held_out = held_out.isel(example=_order(view.grid, held_out))
    groups = example_groups(held_out, held_out.attrs.get("split", "random"))
    here, there = (areas(grid, view.areas.tokens, groups) for grid in (view.grid, held_out))
    if here.tokens != there.tokens or not np.array_equal(here.layers, there.layers):
        raise ValueError("held_out has other layers or tokens than the grid. Use the same run's.")
    common = here.usable & there.usable
    sets = {
        (name, label): group & band & common
        for name, group in view.groups.items()
        for label, band in view.bands.items()
        if (group & band & common).any()
    }
    if not sets:
        return "**Held-out answers.** The two grids have no cell with an AUROC in common."
    (value, influence), (value_there, influence_there) = (
        each.means(sets.values()) for each in (here, there)
    )
    difference, paired = value_there - value, influence_there - influence
    half_width = here.half_width(paired, largest_error(paired, view.alpha))
    fell = np.flatnonzero(difference < -half_width)
    text = f"**Held-out answers** (split: {escape(held_out.attrs.get('split', 'unknown'))}). "
    if len(fell):
        i = fell[difference[fell].argmin()]
        name, label = list(sets)[i]
        text += (
            f"Of {len(sets)} means over a band of layers and a group of tokens, {len(fell)} "
            f"{'is' if len(fell) == 1 else 'are'} lower. The largest fall is that of "
            f"{group_name(name)} in {view.layers_of(view.bands[label])}, from "
            f"{area(value[i], *here.interval(value[i], influence[i]))} to "
            f"{area(value_there[i], *there.interval(value_there[i], influence_there[i]))}, by "
            f"{by_how_much(difference[i], half_width[i])}."
        )
    else:
        text += "No mean over a band of layers and a group of tokens is lower."
    row, column = np.nonzero(there.usable)
    value, influence = there.value[row, column], there.influence[row, column]
    above, _ = above_chance(View(held_out.sortby("layer"), there, view.alpha), CHANCE_ALPHA)
    i = int(value.argmax())
    return text + (
        f" With answers held out, {above or 'none'} of {len(row)} cells "
        f"{'is' if above == 1 else 'are'} above chance; the highest is "
        f"{view.place(row[i], column[i])}, "
        f"{area(value[i], *there.interval(value[i], influence[i]))}."
    )


def _order(grid, other):
    """Where the other grid has each of this one's examples."""
    place = {each: i for i, each in enumerate(other["id"].to_numpy())}
    return [place[each] for each in grid["id"].to_numpy()]
