"""What a person is told whose message is refused, in English or Chinese."""

from __future__ import annotations

from collections.abc import Collection

from chatwright.service.moderation.text import is_chinese

REFUSED = {
    "en": "Sorry, I can't help with this one. If I misread you, please put it another way. "
    "I'm glad to help with something else.",
    "zh": "抱歉，这个请求我帮不上忙。如果是我误会了，请换个说法。其他事情我很乐意帮忙。",
}
IN_NEED = {
    "en": "It sounds as if you are going through something very hard, and I'm sorry. I can't help with hurting "
    "yourself, but you don't have to carry this alone: please talk to someone you trust, or call your local emergency "
    "number or a crisis line now.",
    "zh": "听起来您正经历非常艰难的时刻，我很难过。我不能帮您伤害自己，但您不必独自承受："
    "请和您信任的人谈谈，或马上拨打当地的急救电话或心理援助热线。",
}


def refusal(text: str, categories: Collection[str]) -> str:
    """Kind words in the language of the text."""
    in_need = any(category.startswith("self-harm") for category in categories)
    return (IN_NEED if in_need else REFUSED)["zh" if is_chinese(text) else "en"]
