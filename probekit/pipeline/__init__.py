"""The notebooks run by papermill, and what comes with a run: report, example, sizes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "parameters": ["check_parameters"],
        "notebooks": ["run_pipeline"],
        "report": ["write_report"],
        "example": ["open_run"],
        "sizing": ["estimate"],
    },
)
