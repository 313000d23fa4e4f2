"""What the variables of grids, controls and activations are, as xarray shows it."""

# Names are those of probe_grid, controls, gain_over_controls, difference and Run.activations. No
# unit where there is none: xarray would write it at every axis.
_VARIABLES = {
    "activation": ("activation of the model", None),
    "auroc": ("AUROC of error detection", None),
    "auroc_low": ("AUROC, lower end of the 95 % interval", None),
    "auroc_high": ("AUROC, upper end of the 95 % interval", None),
    "auroc_common": ("AUROC on the answers that have all tokens", None),
    "auroc_a": ("AUROC in the first grid", None),
    "auroc_b": ("AUROC in the second grid", None),
    "training_error": ("standard error of the AUROC that comes from training", None),
    "p_value": ("p of the cell alone", None),
    "p_corrected": ("p, corrected for looking at all cells", None),
    "n_examples": ("answers measured on", "answers"),
    "n_errors": ("wrong answers among them", "answers"),
    "n_a": ("answers measured on in the first grid", "answers"),
    "n_b": ("answers measured on in the second grid", "answers"),
    "score": ("P(error), out of fold", None),
    "score_without": ("score by fits that lacked one more fold", None),
    "log_odds_without": ("log-odds of an error by fits that lacked one more fold", "nat"),
    "coef": ("weights of the probe of all examples", "nat per unit of activation"),
    "intercept": ("intercept of the probe of all examples", "nat"),
    "prior": ("log-odds of an error among the training examples", "nat"),
    "slope": ("slope from log-odds to those of P(error)", None),
    "offset": ("offset from log-odds to those of P(error)", "nat"),
    "fold": ("fold that tests the example", None),
    "training": ("whether the example may train what the fold tests", None),
    "converged": ("whether the fit converged", None),
    "null_auroc": ("AUROC with permuted labels", None),
    "null_by_layer": ("log-odds with permuted labels, summed over the layer's cells", "nat"),
    "null_by_token": ("log-odds with permuted labels, summed over the token's cells", "nat"),
    "null_wrong": ("permuted labels", None),
    "chance": ("whether the control knows nothing", None),
    "label": ("the control in a few words", None),
    "description": ("the control in a sentence", None),
    "same_token": ("share of answers in which two columns are one token", None),
    "gain": ("AUROC of the probe less that of the controls", None),
    "gain_low": ("gain, lower end of the 95 % interval", None),
    "gain_high": ("gain, upper end of the 95 % interval", None),
    "gain_low_simultaneous": ("gain, lower end for all cells at once", None),
    "gain_high_simultaneous": ("gain, upper end for all cells at once", None),
    "absorbed": ("share of the signal that the controls have too", None),
    "difference": ("AUROC of the first grid less that of the second", None),
    "difference_low": ("difference, lower end of the 95 % interval", None),
    "difference_high": ("difference, upper end of the 95 % interval", None),
    "difference_low_simultaneous": ("difference, lower end for all cells at once", None),
    "difference_high_simultaneous": ("difference, upper end for all cells at once", None),
    "layer": ("layer", None),
    "token": ("token", None),
    "correct": ("whether the answer is right", None),
}

_BEST = (
    "of the best cell, which is chosen for each fold on the answers of the others: what choosing a "
    "cell is worth on new answers. Not the AUROC of best_layer and best_token, which is the "
    "highest of all and so too high."
)


def described(dataset):
    """The dataset with the names of its variables in words, and its examples found by `id`.

    Nothing of this needs to be in a file: what is read is described anew.
    """
    dataset = dataset.copy()
    for name, (words, units) in _VARIABLES.items():
        if name in dataset.variables:
            dataset[name].attrs |= {"long_name": words} | ({"units": units} if units else {})
    if "best_auroc" in dataset.attrs:
        dataset.attrs["best_auroc_is"] = _BEST
    ids = dataset.coords.get("id")
    if ids is not None and ids.dims == ("example",) and "id" not in dataset.xindexes:
        dataset = dataset.set_xindex("id")
    return dataset
