"""What the figure says: contrasts, a description, published claims checked, the explorer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "headlines": ["headline"],
        "description": ["describe"],
        "claims": ["check_claims", "claims_table"],
        "explorer": ["explore"],
    },
)
