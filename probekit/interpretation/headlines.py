"""A run in two sentences: whether errors show at all, and whether that takes the network."""

import numpy as np

from probekit import arguments
from probekit.interpretation.wording import area, count, number
from probekit.run.directory import Run
from probekit.tokens import FIGURE_TOKENS


def headline(run):
    """Say in two sentences what a run shows.

    The first says whether errors show at all: in how many cells, and with what AUROC all cells
    together detect them. The second says whether that beats all controls together, and what is
    left of it with answers held out.

    Parameters
    ----------
    run : Run
        With a finished probe stage.

    Returns
    -------
    str
        Plain text.

    Raises
    ------
    TypeError
        If it is no run.
    FileNotFoundError
        If the run has no finished probe stage.

    Examples
    --------
    >>> import probekit as pk
    >>> print(pk.headline(pk.Run("data/example")))
    Wrong answers can be told from right ones in 415 of 420 cells, and by all cells
    together (AUROC 0.86 [0.83, 0.89], where 0.5 is chance). But all controls
    together, without the network, reach 0.86, to which the cells add +0.02 [+0.00,
    +0.03]; with answers held out 0.78 [0.68, 0.85] is left, not shown to be more
    than the controls.
    """
    arguments.instance("run", run, Run, 'such as Run("data/runs/cities")')
    splits = run.manifest("probe")["results"]["splits"]
    main = next(split for split in ("random", "group", "answer", *splits) if split in splits)
    grid = run.grid(main)
    detectors = {s: run.detector(s) for s in splits if s != "published"}
    first = _at_all(grid, detectors[main])
    extracted = run.manifest_path("extract").exists() and run.manifest("extract")["results"]
    if extracted and len(extracted.get("sites", [])) > 1:
        site = arguments.visible(grid.attrs.get("site", "unknown"), 100)
        first = f"At {site}, {first[0].lower()}{first[1:]}"
    held_out = next((split for split in ("answer", "group") if split in detectors), None)
    return f"{first} {_beyond_controls(detectors, main, held_out)}"


def _at_all(grid, detector):
    """Whether errors show in this grid: over its cells, and in all of them together."""
    drawn = [token for token in FIGURE_TOKENS if token in grid["token"].to_numpy().astype(str)]
    cells = grid.sel(token=drawn)
    n = int(cells["auroc"].count())
    together = f"AUROC {_area(detector)}, where 0.5 is chance"
    above = int((cells["p_corrected"] <= 0.05).sum()) if "p_corrected" in cells else None
    in_cells = "" if above is None else f"{above or 'none'} of {count(n, 'cell')}"
    if beats_chance(detector):
        where = f"in {in_cells}, and " if above else "though in no single cell, "
        where = "" if above is None else where
        return (
            f"Wrong answers can be told from right ones {where}by all cells together ({together})."
        )
    if above:
        return (
            f"Wrong answers can be told from right ones in {in_cells}, but not by all cells "
            f"together ({together})."
        )
    single = "" if above is None else f"in {in_cells} better than by chance, "
    return (
        f"Nothing is shown: wrong answers can't be told from right ones, {single}nor by all cells "
        f"together ({together})."
    )


def beats_chance(detector):
    """By the permuted grids where there are some, else by the interval."""
    if np.isfinite(detector.p_value):
        return detector.p_value <= 0.05
    return detector.auroc_low > 0.5


def _beyond_controls(detectors, main, held_out):
    """Whether the network is what shows them, and what is left with answers held out."""
    detector, parts = detectors[main], []
    if np.isfinite(detector.gain):
        bar = detector.auroc - detector.gain
        if detector.gain_low > 0:
            text = f"That is more than all controls together reach without the network ({bar:.2f})"
        elif beats_chance(detector):
            text = f"But all controls together, without the network, reach {bar:.2f}"
            if detector.added_low > 0:
                text += f", to which the cells add {_signed(detector, 'added')}"
        else:
            text = f"All controls together, without the network, reach {bar:.2f}"
        parts.append(text)
    if held_out is None:
        parts.append("no answer could be held out to see whether it is which answer was given")
    else:
        kind = "answers" if held_out == "answer" else "groups of questions"
        left = f"with {kind} held out {_area(detectors[held_out])} is left"
        if np.isfinite(detectors[held_out].gain):
            beats = detectors[held_out].gain_low > 0
            left += (
                ", more than the controls" if beats else ", not shown to be more than the controls"
            )
        parts.append(left)
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _area(detector):
    return area(detector.auroc, detector.auroc_low, detector.auroc_high)


def _signed(detector, name):
    value, low, high = (number(getattr(detector, name + end), "+") for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"
