"""Equipoise: balancing decisions for machine learning, each with a proof of how good it is.

    import equipoise as eq

    spec = eq.load("spec.yaml")
    plan = eq.solve(spec)
    plan.certificate.objective, plan.certificate.bound, plan.certificate.gap

Names are imported when they are first used, so that `import equipoise` costs next to nothing.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version as _version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clients.client import AsyncClient, Client
    from .clients.connect import connect, connect_async
    from .clients.jobs import Job, JobStatus
    from .clients.many import solve_many
    from .solvers.check import CheckResult, check
    from .solvers.control import Progress
    from .solvers.session import Session, session
    from .solvers.solve import solve
    from .specs.certificate import Certificate
    from .specs.collection_budgets import CollectionBudgets
    from .specs.decode_allocation import DecodeAllocation
    from .specs.errors import (
        BackendError,
        EquipoiseError,
        InfeasibleError,
        ServiceError,
        SolveTimeout,
        SpecError,
        UnsupportedError,
    )
    from .specs.expert_assignment import ExpertAssignment
    from .specs.reading import load
    from .specs.rollout_budgets import RolloutBudgets
    from .specs.saving import load_bundle, load_plan, save
    from .specs.spec import Plan, Spec, kinds

_HOMES = {
    "clients.client": ("AsyncClient", "Client"),
    "clients.connect": ("connect", "connect_async"),
    "clients.jobs": ("Job", "JobStatus"),
    "clients.many": ("solve_many",),
    "solvers.check": ("CheckResult", "check"),
    "solvers.control": ("Progress",),
    "solvers.session": ("Session", "session"),
    "solvers.solve": ("solve",),
    "specs.certificate": ("Certificate",),
    "specs.errors": (
        "BackendError",
        "EquipoiseError",
        "InfeasibleError",
        "ServiceError",
        "SolveTimeout",
        "SpecError",
        "UnsupportedError",
    ),
    "specs.reading": ("load",),
    "specs.saving": ("load_bundle", "load_plan", "save"),
    "specs.spec": ("Plan", "Spec", "kinds"),
}
_NAMES = {name: home for home, names in _HOMES.items() for name in names}


def _kind_names() -> dict[str, str]:
    """The spec classes, which are discovered: a kind is a spec that has a formulation of the same name."""
    stems = [path.stem for path in (Path(__file__).parent / "solvers" / "formulations").glob("[a-z]*.py")]
    return {stem.title().replace("_", ""): f"specs.{stem}" for stem in stems}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version("equipoise")
    home = _NAMES.get(name) or _kind_names().get(name)
    if home is None:
        raise AttributeError(f"module 'equipoise' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_NAMES, *_kind_names(), "__version__"])
