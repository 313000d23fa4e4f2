"""Where inside a language model it shows that an answer is wrong, and whether to trust that.

The public names, in the order in which data flows, are those of the design:
`read_questions`, `load_model`, `extract`, `Run`, `probe_grid`, `heatmap`, `findings` and so on.
"""

from importlib import import_module

__version__ = "0.1.0"

# Loaded when first asked for: drawing a finished grid should not wait for torch.
_NAMES = {
    "questions": ["read_questions"],
    "models": ["load_model"],
    "answers": ["find_span", "grade", "is_refusal"],
    "tokens": ["FIGURE_TOKENS", "TOKENS"],
    "sites": ["SITES"],
    "extract": ["extract"],
    "runs": ["Run"],
    "grid": ["probe_grid"],
    "charts": ["heatmap", "save_chart", "static"],
    "findings": ["findings"],
    "pipeline": ["check_parameters", "run_pipeline"],
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'probekit' has no attribute {name!r}")
    return getattr(import_module(f"probekit.{_MODULE_OF[name]}"), name)


def __dir__():
    return [*globals(), *__all__]
