"""Fair shares: tokens in proportion to weights among those who ask, and nothing to be gained by waiting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackserve.engine.fairness import MOST_IDLE, OUTPUT_COST, PROMPT_COST, FairShares


def serve_next(shares: FairShares, tenants: list[str], prompt: int, output: int) -> str:
    """Serve one request of the tenant whose turn it is; another takes its place in the queue."""
    tenant = min(tenants, key=shares.served)
    shares.admitted(tenant, prompt)
    shares.generated(tenant, output)
    return tenant


@given(
    sizes=st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=2, max_size=6),
    rounds=st.integers(10, 200),
)
def test_tenants_who_always_ask_are_served_alike_whatever_they_send(
    sizes: list[tuple[int, int]], rounds: int
) -> None:
    shares = FairShares()
    tenants = [f"t{number}" for number in range(len(sizes))]
    for tenant in tenants:
        shares.arrived(tenant)
    given_to = dict.fromkeys(tenants, 0.0)
    for _ in range(rounds):
        tenant = min(tenants, key=shares.served)
        prompt, output = sizes[tenants.index(tenant)]
        serve_next(shares, tenants, prompt, output)
        given_to[tenant] += PROMPT_COST * prompt + OUTPUT_COST * output
    largest = max(PROMPT_COST * prompt + OUTPUT_COST * output for prompt, output in sizes)
    assert max(given_to.values()) - min(given_to.values()) <= largest


def test_a_tenant_of_twice_the_weight_gets_twice_as_much() -> None:
    shares = FairShares()
    shares.set_weight("b", 2.0)
    for tenant in "ab":
        shares.arrived(tenant)
    turns = [serve_next(shares, ["a", "b"], 10, 10) for _ in range(300)]
    assert turns.count("b") == pytest.approx(2 * turns.count("a"), abs=2)


def test_a_weight_counts_from_now_on_for_a_tenant_that_is_known() -> None:
    shares = FairShares()
    for tenant in "ab":
        shares.arrived(tenant)
    shares.set_weight("b", 3.0)
    turns = [serve_next(shares, ["a", "b"], 10, 10) for _ in range(400)]
    assert turns.count("b") == pytest.approx(3 * turns.count("a"), abs=3)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_must_be_a_positive_number(weight: float) -> None:
    with pytest.raises(ValueError, match="must be a positive number"):
        FairShares().set_weight("a", weight)


def test_who_comes_late_starts_where_the_others_are() -> None:
    shares = FairShares()
    shares.arrived("a")
    for _ in range(100):
        serve_next(shares, ["a"], 100, 100)
    shares.arrived("late")
    turns = [serve_next(shares, ["a", "late"], 100, 100) for _ in range(10)]
    assert turns.count("late") in (5, 6)


def test_who_was_away_neither_saves_up_nor_is_let_off() -> None:
    shares = FairShares()
    for tenant in "ab":
        shares.arrived(tenant)
    for _ in range(10):
        serve_next(shares, ["b"], 1000, 1000)
    ahead = shares.served("b")
    shares.finished("b")
    shares.arrived("b")
    assert shares.served("b") == ahead, "leaving and coming back does not help"


def test_what_did_not_start_is_not_paid_for() -> None:
    shares = FairShares()
    shares.arrived("a")
    before = shares.served("a")
    shares.admitted("a", 500)
    shares.returned("a", 500)
    assert shares.served("a") == before


def test_tokens_of_a_tenant_that_is_gone_count_for_nobody() -> None:
    shares = FairShares()
    shares.arrived("a")
    shares.finished("a")
    shares.generated("a", 10)
    with pytest.raises(KeyError):
        shares.served("a")


def test_tenants_that_went_away_are_forgotten_in_the_end() -> None:
    shares = FairShares()
    for number in range(MOST_IDLE + 50):
        shares.arrived(f"t{number}")
        shares.finished(f"t{number}")
    assert len(shares._idle) == MOST_IDLE
    assert "t0" not in shares._idle
