"""A run directory: its files, its lock, the manifests of its stages, what is missing or damaged."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "stopping": ["Stopped", "stoppable"],
        "manifest": ["STAGES"],
        "lock": ["directing", "writing"],
        "directory": ["Run", "Stage"],
    },
)
