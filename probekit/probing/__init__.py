"""Error-detection probes in every cell: folds, intervals, permutations and controls."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "folds": ["held_out_splits"],
        "grid": ["probe_grid"],
        "baselines": ["control_table", "controls", "gain_over_controls"],
        "comparison": ["difference"],
        "detection": ["detector"],
        "saved_probes": ["load_probe"],
        "choice": ["choose_answers", "error_types"],
        "summary": ["findings"],
    },
)
