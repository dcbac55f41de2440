"""`equipoise warmup`: machine code before it is needed."""

from __future__ import annotations

from .console import run


def test_warmup_has_the_machine_code_ready_and_says_what_it_took() -> None:
    result = run("warmup", "rollout_budgets")
    assert result.exit_code == 0
    head, row = result.stdout.splitlines()[:2]
    assert head.split() == ["kind", "functions", "compiled", "now", "seconds"]
    assert row.split()[0] == "rollout_budgets"


def test_warmup_knows_the_kinds() -> None:
    result = run("warmup", "rollouts")
    assert result.exit_code == 2
    assert "did you mean 'rollout_budgets'?" in result.stderr
