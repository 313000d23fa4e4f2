"""Where inside a language model it shows that an answer is wrong, and whether to trust that."""

# In the order in which data flows. A function that shares its module's name is imported last from
# it, so that `probekit.extract` is the function.
from probekit.questions import read_questions
from probekit.models import load_model
from probekit.answers import find_span, grade, is_refusal
from probekit.tokens import FIGURE_TOKENS, TOKENS
from probekit.sites import SITES
from probekit.runs import Run
from probekit.extract import extract
from probekit.token_view import show_tokens
from probekit.grid import probe_grid
from probekit.controls import control_table, controls, gain_over_controls
from probekit.saved_probes import load_probe
from probekit.charts import (
    by_layer,
    by_token,
    calibration,
    compare_splits,
    gain,
    heatmap,
    save_chart,
    score_distribution,
    small_multiples,
    static,
)
from probekit.explorer import explore
from probekit.findings import findings
from probekit.claims import check_claims
from probekit.describe import describe
from probekit.report import write_report
from probekit.parameters import check_parameters
from probekit.example import open_run
from probekit.pipeline import run_pipeline
from probekit.sizing import estimate

__version__ = "0.1.0"

__all__ = [
    "FIGURE_TOKENS",
    "SITES",
    "TOKENS",
    "Run",
    "by_layer",
    "by_token",
    "calibration",
    "check_claims",
    "check_parameters",
    "compare_splits",
    "control_table",
    "controls",
    "describe",
    "estimate",
    "explore",
    "extract",
    "find_span",
    "findings",
    "gain",
    "gain_over_controls",
    "grade",
    "heatmap",
    "is_refusal",
    "load_model",
    "load_probe",
    "open_run",
    "probe_grid",
    "read_questions",
    "run_pipeline",
    "save_chart",
    "score_distribution",
    "show_tokens",
    "small_multiples",
    "static",
    "write_report",
]
