"""Pictures of the page for the documentation: `CHATWRIGHT_PICTURES=docs/images pytest tests/service/product/page`."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.service.product.browser import Browser
from tests.service.product.page.conftest import ModelOf, Visit

FOLDER = os.environ.get("CHATWRIGHT_PICTURES")
pytestmark = pytest.mark.skipif(not FOLDER, reason="makes pictures where CHATWRIGHT_PICTURES says")

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
SAID = {
    "How do I reverse a linked list in Python?": """Walk along the list once and turn each pointer around:

```python
def reverse(head):
    before = None
    while head:
        head.next, before, head = before, head, head.next
    return before
```

It takes **O(n)** time and **O(1)** extra space, because every node is visited once and none is copied.""",
    "And how many comparisons does sorting need?": """No comparison sort can do better than

$$
\\log_2(n!) \\approx n \\log_2 n - 1.44\\,n
$$

| n | lower bound | merge sort |
|---:|---:|---:|
| 10 | 22 | 25 |
| 1000 | 8530 | 8977 |""",
    "彩虹是怎样形成的？": """阳光进入雨滴时会**折射**，在雨滴背面**反射**，离开时再折射一次。

1. 不同颜色的光折射角略有不同，于是白光被分开。
2. 红光大约以 $42^\\circ$ 离开，紫光约 $40^\\circ$。
3. 无数雨滴各自送来一种颜色，合起来便是彩虹。""",
}
TITLES = [
    "Plan a weekend in Kyoto",
    "为什么天空是蓝色的",
    "Regular expressions",
    "A poem about rain",
    "Unit tests for dates",
]


def converse(person: Browser, *texts: str) -> str:
    conversation = person.conversation()
    parent = None
    for text in texts:
        parent = person.ask(conversation, text, parent)["id"]
    return conversation


def test_pictures(product, saying: ModelOf, visit: Visit):
    model = saying(lambda prompt: next((said for asked, said in reversed(SAID.items()) if asked in prompt), "Gladly."))
    service = product(model)
    service.set(comparisons=True, user_keys=True)
    ada, root = service.browser("ada"), service.admin("grace")
    for title in TITLES:
        ada.ok("PATCH", f"/conversations/{converse(ada, title)}", {"title": title})
    rainbow = converse(ada, "彩虹是怎样形成的？")
    english = converse(ada, *list(SAID)[:2])
    draw = random.Random(0)
    for name in ("li.lei", "marie", "alan", "emmy"):
        person = service.browser(name)
        for text, said in SAID.items():
            answer = person.ask(person.conversation(consent=True), text)
            vote = draw.choice(["up", "up", "down"])
            tags = draw.sample(["correct", "clear"] if vote == "up" else ["incomplete", "wrong", "too_long"], 1)
            path = f"/conversations/{answer['conversation_id']}/messages/{answer['id']}/feedback"
            person.ok("PUT", path, {"vote": vote, "tags": tags, "text": "" if vote == "up" else "Say why, too."})
            assert said

    def picture(name: str, who: Browser | None, path: str, ready: str, **options: object) -> None:
        page = visit(service, who, path, **{"viewport": DESKTOP, **options}).page
        expect(page.get_by_text(ready).first).to_be_visible()
        if "/c/" in path:
            expect(page.locator(".katex-html").first).to_be_visible()
        page.wait_for_timeout(300)  # fonts
        page.screenshot(path=Path(FOLDER or "") / f"{name}.png")

    picture("login", None, "/signup", "Make an account")
    picture("welcome", ada, "/", "What would you like to know, ada?")
    picture("chat", ada, f"/c/{english}", "merge sort")
    picture("chat-dark", ada, f"/c/{english}", "merge sort", color_scheme="dark")
    picture("chat-zh", ada, f"/c/{rainbow}", "折射", locale="zh-CN")
    phone = {"viewport": PHONE, "has_touch": True, "device_scale_factor": 2}
    picture("chat-phone", ada, f"/c/{rainbow}", "折射", locale="zh-CN", color_scheme="dark", **phone)
    picture("settings", ada, "/settings", "Custom instructions")
    picture("admin", root, "/admin", "Tokens per second")
    picture("admin-feedback", root, "/admin/feedback", "Say why, too.")
    comparing = visit(service, ada, viewport=DESKTOP)
    comparing.press(comparing.words.compareTwo)
    comparing.ask("How do I reverse a linked list in Python?")
    expect(comparing.page.get_by_text(comparing.words.which)).to_be_visible()
    comparing.page.screenshot(path=Path(FOLDER or "") / "compare.png")
