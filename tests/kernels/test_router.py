"""The router of a mixture-of-experts layer: what it chooses, how its prices move, what it drops and counts."""

from __future__ import annotations

import copy
import datetime
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed

import equipoise as eq
from equipoise.kernels.router import BalancedRouter, Routed
from equipoise.kernels.routing import quantile_prices

METHODS = ("none", "auxiliary", "loss_free", "bip", "quantile", "capped")


def router(width: int = 6, experts: int = 8, k: int = 3, seed: int = 0, **options: Any) -> BalancedRouter:
    torch.manual_seed(seed)
    return BalancedRouter(width, experts, k, **options)


def tokens(count: int, width: int = 6, seed: int = 0, skew: float = 1.0) -> Tensor:
    """Tokens that lean to one side, so that some experts are much wanted."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator) + skew * torch.randn(width, generator=generator)


def scores_of(module: BalancedRouter, x: Tensor) -> np.ndarray:
    """The scores of a router, in float64."""
    logits = x.double().numpy() @ module.gate.weight.detach().double().numpy().T
    if module.score == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def same(one: Routed, other: Routed) -> None:
    """Equal choices and counts, and weights up to rounding."""
    for field in ("experts", "load", "dropped"):
        assert torch.equal(getattr(one, field), getattr(other, field)), field
    torch.testing.assert_close(one.weights, other.weights)
    torch.testing.assert_close(one.auxiliary, other.auxiliary)


@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_a_token_goes_to_its_best_experts_with_weights_of_their_scores(score: str, normalise: bool, k: int):
    module = router(k=k, score=score, normalise=normalise).eval()
    module.prices.copy_(torch.linspace(-0.3, 0.3, 8))
    x, valid = tokens(40), torch.arange(40) % 5 != 2
    routed = module(x, valid)
    scores = scores_of(module, x)
    for token in range(40):
        if not valid[token]:
            assert (routed.experts[token] == -1).all() and (routed.weights[token] == 0).all()
            continue
        order = np.argsort(-(scores[token] - module.prices.numpy()), kind="stable")[:k]
        weights = scores[token, order] / (scores[token, order].sum() if normalise else 1)
        assert routed.experts[token].tolist() == order.tolist()
        np.testing.assert_allclose(routed.weights[token].detach().numpy(), weights, rtol=1e-5)
    chosen = routed.experts[valid]
    assert routed.load.tolist() == [int((chosen == expert).sum()) for expert in range(8)]
    assert routed.dropped == 0


@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
def test_the_auxiliary_loss_is_load_times_mean_share(score: str):
    module = router(balance="auxiliary", score=score, coefficient=0.5)
    x, valid = tokens(50), torch.arange(50) < 40
    routed = module(x, valid)
    scores = scores_of(module, x)[:40]
    share = (scores / scores.sum(1, keepdims=True)).mean(0)
    load = routed.load.numpy()
    assert routed.auxiliary.item() == pytest.approx(0.5 * (load / load.mean() * share).sum(), rel=1e-5)


def test_the_auxiliary_loss_levels_the_loads_when_it_is_minimised():
    module, x = router(experts=4, k=1, balance="auxiliary", score="softmax", coefficient=1.0), tokens(256)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    before = module(x).load.max()
    for _ in range(40):
        optimizer.zero_grad()
        module(x).auxiliary.backward()
        optimizer.step()
    assert module(x).load.max() < before / 1.5


@pytest.mark.parametrize("balance", [name for name in METHODS if name != "auxiliary"])
def test_other_methods_add_nothing_to_the_loss(balance: Any):
    assert router(balance=balance)(tokens(20)).auxiliary == 0


def test_loss_free_prices_step_up_above_the_mean_load_and_down_below():
    module, x = router(balance="loss_free", step=0.25), tokens(64)
    load = module(x).load
    assert torch.equal(module.prices, 0.25 * torch.sign(load.float() - load.float().mean()))
    before = module.prices.clone()
    load = module(x).load
    assert torch.equal(module.prices, before + 0.25 * torch.sign(load.float() - load.float().mean()))


def test_bip_routes_at_the_prices_of_this_batch_and_quantile_at_those_of_the_last():
    x = tokens(64)
    for balance, clip, rounds in (("bip", True, 4), ("quantile", False, 1)):
        module = router(balance=balance)
        plain = router(balance="none")(x)
        scores = torch.from_numpy(scores_of(module, x)).float()
        wanted = quantile_prices(scores, 3, 24, iterations=rounds, clip=clip)
        routed = module(x)
        torch.testing.assert_close(module.prices, wanted)
        assert torch.equal(routed.experts, plain.experts) == (balance == "quantile")


@pytest.mark.parametrize("balance", ["loss_free", "bip", "quantile"])
def test_prices_level_the_loads_in_time(balance: Any):
    module, x = router(balance=balance, step=0.01), tokens(512)
    first = router(balance="none")(x).load.max()
    for _ in range(60):
        module(x)
    assert module(x).load.max() - 192 < (first - 192) / 5


@pytest.mark.parametrize("factor", [None, 1.0, 1.25, 3.0])
@pytest.mark.parametrize("count", [1, 7, 64, 65])
def test_capped_meets_its_capacities_from_the_first_batch(factor: float | None, count: int):
    module, x = router(balance="capped", capacity_factor=factor), tokens(count, skew=3.0)
    routed = module(x)
    assert routed.load.max() <= np.ceil(np.ceil(count * 3 * (factor or 1.0)) / 8)
    assert routed.dropped == count * 3 - routed.load.sum()
    assert routed.dropped == (routed.experts < 0).sum()
    assert routed.dropped <= 0.05 * count * 3


@pytest.mark.parametrize("factor", [1.0, 1.25])
@pytest.mark.parametrize("seed", range(4))
def test_capped_comes_within_half_a_percent_of_the_optimum_in_the_first_batch(factor: float, seed: int):
    module, x = router(balance="capped", capacity_factor=factor, k=2), tokens(256, seed=seed, skew=2.0)
    routed, scores = module(x), scores_of(module, x)
    best = eq.solve(eq.ExpertAssignment(scores=scores, experts_per_token=2, capacity=int(64 * factor)))
    reached = np.take_along_axis(scores, routed.experts.numpy(), axis=1).sum()
    assert routed.dropped == 0
    assert 0.995 * best.certificate.objective <= reached <= best.certificate.objective + 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_what_has_no_place_is_dropped_the_least_scores_and_later_tokens_first(seed: int):
    module = router(capacity_factor=1.0, balance="none")
    x = tokens(12, seed=seed, skew=2.0).repeat(3, 1)  # so that there are ties
    valid = torch.rand(36, generator=torch.Generator().manual_seed(seed)) < 0.8
    free, routed = router(balance="none")(x, valid), module(x, valid)
    places = -(-int(valid.sum()) * 3 // 8)
    scores = torch.sigmoid(module.gate(x)).detach()
    kept = torch.full_like(free.experts, -1)
    for expert in range(8):
        claims = [(-scores[token, expert].item(), token) for token in range(36) if expert in free.experts[token]]
        for _, token in sorted(claims)[:places]:
            kept[token][free.experts[token] == expert] = expert
    assert torch.equal(routed.experts, kept)
    assert torch.equal(routed.load, free.load)
    assert routed.dropped == (free.load - places).clamp(min=0).sum() > 0
    sums = routed.weights.sum(1)
    torch.testing.assert_close(sums, (kept >= 0).any(1).float())


@pytest.mark.parametrize("balance", METHODS)
def test_in_eval_nothing_moves_nothing_is_dropped_and_tokens_do_not_matter_to_each_other(balance: Any):
    module, x = router(balance=balance, capacity_factor=1.0), tokens(64, skew=3.0)
    module(x)
    before = module.prices.clone()
    module.eval()
    together, alone = module(x), module(x[10:11])
    assert torch.equal(module.prices, before)
    assert together.dropped == 0
    assert torch.equal(together.experts[10:11], alone.experts)


def test_shared_experts_follow_the_chosen_ones_with_weight_one():
    valid = torch.arange(10) != 4
    plain, shared = router()(tokens(10), valid), router(shared=2)(tokens(10), valid)
    assert torch.equal(shared.experts[:, :3], plain.experts)
    assert torch.equal(shared.weights[:, :3], plain.weights)
    assert shared.experts[valid, 3:].tolist() == [[8, 9]] * 9
    assert (shared.weights[valid, 3:] == 1).all()
    assert shared.experts[4].tolist() == [-1] * 5 and (shared.weights[4] == 0).all()
    assert shared.load.shape == (8,)


@pytest.mark.parametrize("balance", METHODS)
@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("factor", [None, 1.0])
def test_few_tokens_leave_finite_prices(balance: Any, count: int, factor: float | None):
    module = router(balance=balance, capacity_factor=factor)
    module(tokens(64))
    for _ in range(3):
        routed = module(tokens(count))
        assert routed.experts.shape == (count, 3)
        assert routed.dropped == (routed.experts < 0).sum()
        assert module.prices.isfinite().all() and routed.auxiliary.isfinite()


@pytest.mark.parametrize("balance", METHODS)
def test_padding_alone_teaches_nothing(balance: Any):
    module = router(balance=balance)
    module(tokens(64))
    before = module.prices.clone()
    routed = module(tokens(16), torch.zeros(16, dtype=torch.bool))
    assert torch.equal(module.prices, before)
    assert (routed.experts == -1).all() and routed.load.sum() == 0 and routed.dropped == 0


@pytest.mark.parametrize("balance", METHODS)
def test_padding_changes_nothing_whatever_it_holds(balance: Any):
    x, junk = tokens(48), torch.full((16, 6), torch.nan)
    plain, padded = router(balance=balance, capacity_factor=1.0), router(balance=balance, capacity_factor=1.0)
    plain(x)
    padded(torch.cat((x, junk)), torch.arange(64) < 48)
    torch.testing.assert_close(plain.prices, padded.prices)
    alone, among = plain(x), padded(torch.cat((junk, x)), torch.arange(64) >= 16)
    same(alone, Routed(among.experts[16:], among.weights[16:], *among[2:]))
    (among.weights.square().sum() + among.auxiliary).backward()
    (alone.weights.square().sum() + alone.auxiliary).backward()
    torch.testing.assert_close(padded.gate.weight.grad, plain.gate.weight.grad)


def test_a_token_that_is_not_a_number_is_counted_as_dropped():
    x = tokens(16)
    x[5] = torch.nan
    routed = router()(x)
    assert (routed.experts[5] == -1).all() and (routed.weights[5] == 0).all()
    assert routed.dropped == 3


@pytest.mark.parametrize("balance", ["loss_free", "quantile"])
def test_a_checkpoint_holds_the_prices(balance: Any):
    module, x = router(balance=balance), tokens(64)
    module(x)
    other = router(seed=1, balance=balance)
    other.load_state_dict(module.state_dict())
    same(module(x), other(x))
    assert torch.equal(module.prices, other.prices) and (module.prices != 0).any()


@pytest.mark.parametrize("cast", [torch.nn.Module.bfloat16, torch.nn.Module.half, torch.nn.Module.double])
def test_prices_stay_float32_and_keep_their_bits_when_the_module_is_cast(cast: Any):
    module = router(balance="loss_free", step=0.001)
    module.prices.fill_(0.4567891)
    cast(module)
    assert module.prices.dtype == torch.float32
    assert module.prices.tolist() == [pytest.approx(0.4567891, rel=1e-7)] * 8
    x = tokens(64).to(module.gate.weight.dtype)
    assert module(x).weights.dtype == x.dtype
    assert module.prices.tolist() != [pytest.approx(0.4567891, rel=1e-7)] * 8


def test_a_module_without_memory_gets_float32_prices():
    with torch.device("meta"):
        module = BalancedRouter(6, 8, 3).bfloat16()
    module.to_empty(device="cpu")
    assert module.prices.dtype == torch.float32 and module.prices.device.type == "cpu"


def test_a_copy_has_its_own_prices():
    module = router()
    other = copy.deepcopy(module)
    other(tokens(64))
    assert (other.prices != 0).any() and (module.prices == 0).all()


def test_autocast_does_not_touch_the_choice():
    module, x = router().eval(), tokens(200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = module(x)
    same(inside, module(x))


@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
@pytest.mark.parametrize("normalise", [True, False])
def test_gradients_reach_tokens_and_gate(score: Any, normalise: bool):
    options = {"width": 3, "experts": 4, "k": 2, "score": score, "normalise": normalise}
    module = router(**options, balance="auxiliary", shared=1, coefficient=1.0).double()
    x, weight = tokens(4, width=3).double().requires_grad_(), module.gate.weight.detach().requires_grad_()

    def weights_and_loss(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        routed = torch.func.functional_call(module, {"gate.weight": weight}, (x,))
        return routed.weights, routed.auxiliary

    assert torch.autograd.gradcheck(weights_and_loss, (x, weight))


@pytest.mark.parametrize("balance", METHODS)
def test_compiled_in_one_graph_it_does_the_same(balance: Any):
    torch.compiler.reset()  # there is a limit to compilations of one function
    plain, other = router(balance=balance, capacity_factor=1.25), router(balance=balance, capacity_factor=1.25)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    x, valid = tokens(64), torch.arange(64) % 7 != 3
    for _ in range(3):
        same(plain(x, valid), compiled(x, valid))
        assert torch.equal(plain.prices, other.prices)


@pytest.mark.parametrize("balance", ["quantile", "capped"])
def test_compiled_for_any_number_of_tokens_it_does_the_same(balance: Any):
    torch.compiler.reset()
    plain, other = router(balance=balance, capacity_factor=1.25), router(balance=balance, capacity_factor=1.25)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (64, 40, 91):
        same(plain(tokens(count)), compiled(tokens(count)))


@pytest.mark.parametrize("balance", ["loss_free", "bip", "quantile", "capped"])
def test_ranks_share_the_prices_of_all_their_tokens(balance: Any):
    x = tokens(90)
    alone = router(balance=balance, k=2)
    start = copy.deepcopy(alone)
    store = distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    prices: dict[int, Tensor] = {}
    mistakes: list[Exception] = []

    def rank(number: int, part: Tensor) -> None:
        try:
            group: Any = distributed.ProcessGroupGloo(store, number, 2, datetime.timedelta(seconds=20))
            module = copy.deepcopy(start)
            module.group = group
            for _ in range(3):
                module(part)
            prices[number] = module.prices
        except Exception as error:
            mistakes.append(error)

    members = [threading.Thread(target=rank, args=(number, part)) for number, part in enumerate((x[:30], x[30:]))]
    for member in members:
        member.start()
    for member in members:
        member.join(timeout=60)
    assert not mistakes
    for _ in range(3):
        alone(x)
    assert torch.equal(prices[0], prices[1])
    torch.testing.assert_close(prices[0], alone.prices, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 9}, "k: must be from 1 to 8, the experts there are, got 9"),
        ({"k": 0}, "k: must be from 1 to 8, the experts there are, got 0"),
        ({"experts": 0}, "experts: must be at least 1, got 0"),
        ({"width": 0}, "width: must be at least 1, got 0"),
        ({"balance": "even"}, "balance: must be one of none, auxiliary, loss_free, bip, quantile, capped, got 'even'"),
        ({"score": "relu"}, "score: must be one of softmax, sigmoid, got 'relu'"),
        ({"shared": -1}, "shared: must be at least 0, got -1"),
        ({"capacity_factor": 0.5}, "capacity_factor: must be finite and at least 1, got 0.5"),
        ({"capacity_factor": float("inf")}, "capacity_factor: must be finite and at least 1, got inf"),
        ({"iterations": 0}, "iterations: must be at least 1, got 0"),
        ({"step": float("nan")}, "step: must be finite and at least 0, got nan"),
        ({"coefficient": -1.0}, "coefficient: must be finite and at least 0, got -1.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(") + "$"):
        router(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 1.5}, "k: must be a whole number, got float: pass an int"),
        ({"capacity_factor": "1"}, "capacity_factor: must be a number, got str: pass a float"),
        ({"step": True}, "step: must be a number, got bool: pass a float"),
    ],
)
def test_options_of_another_type_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(TypeError, match=f"^{message}$"):
        router(**options)


@pytest.mark.parametrize(
    ("x", "valid", "error", "message"),
    [
        (torch.zeros(4, 5), None, ValueError, "x: has 5 width, but gate.weight has 6"),
        (torch.zeros(4, 2, 6), None, ValueError, "x: must have the axes"),
        (torch.zeros(4, 6, dtype=torch.int64), None, TypeError, "x: must be floating point"),
        ([0.0] * 6, None, TypeError, "x: must be a tensor, got list"),
        (torch.zeros(4, 6), torch.ones(5, dtype=torch.bool), ValueError, "valid: has 5 tokens, but x has 4"),
        (torch.zeros(4, 6), torch.ones(4), TypeError, "valid: must be bool"),
        (torch.zeros(4, 6, device="meta"), None, ValueError, "x: is on meta, but gate.weight is on cpu"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(x: Any, valid: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        router()(x, valid)
