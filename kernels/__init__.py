"""Plans applied on the device: torch operators that run anywhere, Triton kernels where CUDA is.

Plain tensors in and out; nothing else of the package is needed. `docs/kernels.md` shows them at work.
"""

from .capped import CappedRoute, capped_route
from .choice import uses_triton
from .decode import Admitted, admit, project_loads
from .groups import Repeated, draw_by_budget, group_advantages, repeat_by_budget
from .interior import interior_prices
from .permutation import Dispatched, combine, dispatch
from .prices import digit_histogram, quantile_prices
from .router import BalancedRouter, Routed
from .routing import topk_route

__all__ = [
    "Admitted",
    "BalancedRouter",
    "CappedRoute",
    "Dispatched",
    "Repeated",
    "Routed",
    "admit",
    "capped_route",
    "combine",
    "digit_histogram",
    "dispatch",
    "draw_by_budget",
    "group_advantages",
    "interior_prices",
    "project_loads",
    "quantile_prices",
    "repeat_by_budget",
    "topk_route",
    "uses_triton",
]
