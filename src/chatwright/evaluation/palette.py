"""The report's colours: a hue for each stage, the same in plots and conversations, in a light and a dark tone."""

from __future__ import annotations

INK = "#33383d"  # becomes the page's own text colour
FAINT = "#9aa3ab"  # grid lines, ticks and whatever is only there for comparison

# name: (on white, on black). Hues that also differ for colour-blind readers; nothing is told by colour alone.
HUES = {
    "conversations": ("#c2255c", "#f783ac"),
    "corpus": ("#846358", "#c9aea3"),
    "tokenizer": ("#5c7c2f", "#a9cf6e"),
    "shards": ("#66757f", "#a5b4bd"),
    "pretrain": ("#3b5bdb", "#91a7ff"),
    "sft": ("#d9730d", "#ffb25c"),
    "compare": ("#b0488f", "#eb9fd1"),
    "reward": ("#8e3fc7", "#cf9bf5"),
    "choose": ("#b8860b", "#f0cf65"),
    "ppo": ("#0b8a6b", "#4fd6af"),
    "dpo": ("#1c7c9c", "#7cc8e2"),
    "grpo": ("#6b7a12", "#c3cf63"),
    "evaluate": ("#4a5560", "#b4bec7"),
    "drop1": ("#e8a87c", "#b9744a"),
    "drop2": ("#d9ba8c", "#9c8150"),
    "drop3": ("#c9c3a1", "#7f7a55"),
    "drop4": ("#b3bfb8", "#66746c"),
    "drop5": ("#a7adc4", "#626a8a"),
    "drop6": ("#c0a7bd", "#7f5f7b"),
}


def hue(stage: str) -> str:
    """The light tone of a stage's hue; a variant (``ppo@seed2``) has its stage's, an unknown stage the neutral one."""
    return HUES.get(stage.partition("@")[0], (FAINT, FAINT))[0]


def variable(stage: str) -> str:
    """The CSS variable of the same hue."""
    base = stage.partition("@")[0]
    return f"var(--{base})" if base in HUES else "var(--faint)"


def variables() -> dict[str, str]:
    """What each colour in a figure becomes on the page: a CSS variable, so that one figure reads in light and dark."""
    return {INK: "currentColor", FAINT: "var(--faint)"} | {light: f"var(--{name})" for name, (light, _) in HUES.items()}
