"""Who is replayed: the peers by name, and ours through a session, as a scheduler would call it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equipoise as eq
from equipoise.solvers.baselines import decode_rules
from equipoise.solvers.baselines.decode_snapshot import Rule, Snapshot

from .simulator import Policy, Setting
from .traces import Integers


def plain(rule: Rule) -> Policy:
    """Any function of a `Snapshot` that gives (waiting,) int64: the worker of each request, −1 to keep it waiting."""
    return lambda setting: rule


def peer(name: str) -> Policy:
    """A rule of `decode_rules.RULES`."""
    return lambda setting: decode_rules.RULES[name](setting.seed)


def ours(method: str = "fast", **fields: Any) -> Policy:
    """A warm session on a `DecodeAllocation`; fields as in the spec: horizon, discount, objective, max_bypass …"""

    def policy(setting: Setting) -> Rule:
        session: Any = None

        def rule(step: Snapshot) -> Integers:
            nonlocal session
            active = {"worker": step.worker, "tokens": step.tokens}
            waiting = {"tokens": step.waiting_tokens, "waited": step.waited}
            if step.remaining is not None:
                active["remaining"] = step.remaining
            if step.waiting_remaining is not None:
                waiting["remaining"] = step.waiting_remaining
            if session is None:
                spec = eq.DecodeAllocation(workers={"slots": step.slots}, active=active, waiting=waiting, **fields)
                session = eq.session(spec, method, seed=setting.seed)  # pyright: ignore[reportArgumentType]
                return session.step().worker
            return session.step(active=active, waiting=waiting).worker

        return rule

    return policy


RULES: Mapping[str, Policy] = {name: peer(name) for name in decode_rules.RULES}
"""The peers."""
POLICIES: Mapping[str, Policy] = {**RULES, "equipoise": ours()}
"""The peers, and ours as it comes."""
