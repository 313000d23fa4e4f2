"""Where inside a language model it shows that an answer is wrong, and whether to trust that."""

import lazy_loader

# In the order in which data flows. A name is imported when it is first used: torch, transformers
# and altair take seconds, and no process needs them all.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "questions.table": ["read_questions"],
        "extraction.models": ["load_model", "load_model_of"],
        "extraction.generation": ["check_model"],
        "questions.grading": ["find_span", "grade", "is_refusal"],
        "tokens": ["FIGURE_TOKENS", "TOKENS"],
        "extraction.sites": ["SITES"],
        "run.directory": ["Run"],
        "extraction.one_pass": ["extract"],
        "extraction.responses": ["show_tokens"],
        "extraction.audit": ["audit", "grader_error"],
        "extraction.preflight": ["preflight"],
        "probing.folds": ["held_out_splits"],
        "probing.grid": ["probe_grid"],
        "probing.baselines": ["control_table", "controls", "gain_over_controls"],
        "probing.comparison": ["difference"],
        "probing.detection": ["detector"],
        "probing.saved_probes": ["load_probe"],
        "probing.transfers": ["transfer"],
        "probing.choice": ["choose_answers", "error_types"],
        "probing.summary": ["findings"],
        "charts.heatmaps": ["absorbed", "compare_splits", "gain", "heatmap", "small_multiples"],
        "charts.lines": ["by_layer", "by_token", "choices", "effects", "forest"],
        "charts.matrices": ["transfer_matrix"],
        "charts.curves": ["calibration", "risk_coverage", "score_distribution"],
        "charts.files": ["save_chart", "static"],
        "interpretation.explorer": ["explore"],
        "interpretation.headlines": ["headline"],
        "interpretation.claims": ["check_claims", "claims_table"],
        "interpretation.description": ["describe"],
        "interpretation.intervention": ["intervene"],
        "interpretation.live": ["watch"],
        "pipeline.parameters": ["check_parameters"],
        "pipeline.notebooks": ["run_pipeline"],
        "pipeline.report": ["write_report"],
        "pipeline.example": ["open_run"],
        "pipeline.sizing": ["estimate"],
    },
)

__version__ = "0.1.0"
