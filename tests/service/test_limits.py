from __future__ import annotations

import threading

import pytest

from chatwright.errors import UserError
from chatwright.service.api_error import ApiError
from chatwright.service.limits import RATES, Limiter


def test_the_default_rates_can_be_read():
    assert Limiter().hit("key_requests", "ada") is None
    assert set(RATES) >= {"messages_account", "messages_source", "tokens_account", "signup_source"}


def test_what_is_over_the_rate_waits_and_others_do_not():
    limiter = Limiter({"messages_account": "3/hour"})
    for _ in range(3):
        limiter.hit("messages_account", "ada")
    with pytest.raises(ApiError) as refused:
        limiter.hit("messages_account", "ada")
    assert refused.value.status == 429
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 7200
    limiter.hit("messages_account", "bob")
    limiter.hit("another_bucket", "ada")


def test_tokens_beyond_what_is_left_use_up_all_of_it():
    limiter = Limiter({"tokens_account": "100/hour"})
    limiter.hit("tokens_account", "ada", cost=60)
    limiter.hit("tokens_account", "ada", cost=0)
    with pytest.raises(ApiError):
        limiter.hit("tokens_account", "ada", cost=60)
    with pytest.raises(ApiError):
        limiter.hit("tokens_account", "ada", cost=0)


def test_rates_change_while_it_runs_and_a_bad_one_changes_nothing():
    limiter = Limiter({"messages_account": "1/hour"})
    limiter.hit("messages_account", "ada")
    with pytest.raises(UserError, match=r"messages_account is 'often'.*20/minute"):
        limiter.configure({"messages_account": "often"})
    with pytest.raises(ApiError):
        limiter.hit("messages_account", "ada")
    limiter.configure({"messages_account": ""})
    limiter.hit("messages_account", "ada")


def test_many_threads_get_exactly_the_rate():
    limiter, allowed = Limiter({"messages_source": "50/hour"}), []

    def ask() -> None:
        for _ in range(20):
            try:
                limiter.hit("messages_source", "one")
                allowed.append(1)
            except ApiError:
                pass

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(allowed) == 50
