"""A table of questions, what may be answered, and how a response is graded."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "table": ["read_questions"],
        "candidates": ["Candidates", "read_candidates"],
        "grading": ["find_span", "grade", "is_refusal"],
    },
)
