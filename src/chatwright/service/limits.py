"""How much an account or an address may ask for in a time, by the library limits; counted in this process's memory."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from types import MappingProxyType

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from chatwright.errors import UserError
from chatwright.service.api_error import ApiError

# Of one account, or one source. Tokens are those of prompts and answers together. "" is no limit.
RATES: Mapping[str, str] = MappingProxyType(
    {
        "messages_account": "30/minute",
        "messages_source": "120/minute",
        "tokens_account": "300000/hour",
        "signup_source": "10/hour",
        "key_requests": "120/minute",
        "key_tokens": "1000000/hour",
        "key_source": "600/minute",
    }
)


class Limiter:
    """Counts what each account or source uses of each bucket. Safe in any thread.

    >>> limiter = Limiter({"messages_account": "2/minute"})
    >>> [limiter.hit("messages_account", "ada") for _ in range(2)]
    [None, None]
    >>> limiter.hit("messages_account", "ada")
    ApiError: Too many requests; please try again in 60 seconds.
    """

    def __init__(self, rates: Mapping[str, str] = RATES) -> None:
        """rates: by bucket, as in `"20/minute"`; a bucket that is not there has no limit."""
        self._counter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._items: dict[str, RateLimitItem] = {}
        self.configure(rates)

    def configure(self, rates: Mapping[str, str]) -> None:
        """Take new rates for some buckets; what was used so far counts on where a rate stays as it is.

        UserError when one cannot be read; none is changed then.
        """
        items = dict(self._items)
        for bucket, rate in rates.items():
            if not rate:
                items.pop(bucket, None)
                continue
            try:
                items[bucket] = parse(rate)
            except ValueError:
                raise UserError(f"{bucket} is {rate!r}; write a rate as in 20/minute, or nothing for none.") from None
        self._items = items

    def hit(self, bucket: str, key: str, cost: int = 1) -> None:
        """Count `cost`. ApiError 429, with the seconds to wait, when that is more than is left.

        A cost of 0 asks whether anything is left. What is too much is counted as far as there was room: who has used
        more tokens than were left waits for all of them.
        """
        item = self._items.get(bucket)
        if item is None or not key:
            return
        if cost <= 1:
            allowed = self._counter.hit(item, bucket, key) if cost else self._counter.test(item, bucket, key)
        else:
            left = self._counter.get_window_stats(item, bucket, key).remaining
            allowed = self._counter.hit(item, bucket, key, cost=min(cost, left)) and cost <= left if left else False
        if not allowed:
            reset = self._counter.get_window_stats(item, bucket, key).reset_time
            seconds = max(1, round(reset - time()))
            message = f"Too many requests; please try again in {seconds} seconds."
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after=seconds)
