"""Altair charts of what the probes show."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "heatmaps": ["absorbed", "compare_splits", "gain", "heatmap", "small_multiples"],
        "lines": ["by_layer", "by_token", "choices", "effects", "forest"],
        "matrices": ["transfer_matrix"],
        "curves": ["calibration", "risk_coverage", "score_distribution"],
        "files": ["save_chart", "static"],
    },
)
