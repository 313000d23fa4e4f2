"""A model answers questions, and its activations are read in the same pass."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "models": ["LanguageModel", "load_model", "load_model_of"],
        "sites": ["SITES"],
        "one_pass": ["answer_in_memory", "extract"],
        "responses": ["show_tokens", "token_view"],
        "audit": ["audit", "grader_error"],
        "preflight": ["preflight"],
    },
)
