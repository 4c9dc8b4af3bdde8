"""Speed of PPO, SFT and reward training: ours beside TRL's, the same GPT-2, lengths and batches, in one run.

    python benchmarks/ppo_vs_trl.py                  # about four minutes on two cores, after installing TRL
    python benchmarks/ppo_vs_trl.py --only ppo --rounds 3 --precision float32

TRL 1.8.0 is the newest release that has PPO, as `trl.experimental.ppo`. It gets an environment of its own (`--venv`),
made when it is not there, with the PyTorch that we have. Each side is a process; they take turns, a few steps each,
while the others wait. Medians over the rounds, and the ratio is the median of each round's.

Both sides: no dropout, no gradient checkpointing (which TRL switches on by default), AdamW, products in the same
precision, one minibatch of the whole batch in each inner epoch, all answers of full length.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

TRL = "trl==1.8.0"
SHAPE = {
    "vocab": 2048, "layers": 4, "width": 256, "heads": 4, "context": 256,
    "prompt": 32, "response": 64, "batch": 32, "epochs": 4,  # ppo
    "sft_length": 256, "sft_rows": 16,  # half of each row is prompt
    "pair_length": 128, "pairs": 16,
}  # fmt: skip
TASKS = ("ppo", "sft", "reward")
STEPS = {"ppo": 1, "sft": 2, "reward": 2}  # of a turn
TARGETS = {"ppo": 3.0, "sft": 1.5, "reward": 1.5}

Turn = Callable[[int], tuple[float, float]]  # steps -> seconds, of them before learning


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(task: str, precision: str) -> Turn:
    """One step of our trainer of the task, as often as asked."""
    from chatwright.model.decoder import Decoder
    from chatwright.model.presets import preset
    from chatwright.training.parallel import ParallelConfig, lay_out
    from chatwright.training.runtime import prepare, resolve

    device = prepare()
    layout = lay_out(ParallelConfig(), device, resolve(precision, device))  # type: ignore[arg-type]
    sizes = {"layers": SHAPE["layers"], "d_model": SHAPE["width"], "heads": SHAPE["heads"]}
    model = Decoder(preset("gpt2", vocab_size=SHAPE["vocab"], context=SHAPE["context"], **sizes))
    return {"ppo": our_ppo, "sft": our_sft, "reward": our_reward}[task](model, layout, precision)


def our_ppo(model, layout, precision) -> Turn:  # type: ignore[no-untyped-def]
    """The trainer of the stage ppo."""
    import pydoc_data.topics
    from copy import deepcopy

    from chatwright.model.heads import ScoredDecoder
    from chatwright.tokenizer.bpe import train_bpe
    from chatwright.training.ppo.config import PpoConfig
    from chatwright.training.ppo.trainer import Trainer
    from chatwright.training.rewards import Prompt, RewardTerm, build_rewards

    tokenizer = train_bpe(list(pydoc_data.topics.topics.values()), SHAPE["vocab"])
    assert tokenizer.vocab_size == SHAPE["vocab"]
    tokenizer.stops = frozenset()  # every answer has its full length
    config = PpoConfig(
        episodes=SHAPE["batch"] * 1_000_000,
        batch=SHAPE["batch"],
        minibatch=SHAPE["batch"],
        micro_batch=SHAPE["batch"],
        inner_epochs=SHAPE["epochs"],
        max_tokens=SHAPE["response"],
        max_kl=1e9,
        ptx_coef=0.0,
        ema=0.0,
        dtype=precision,
    )
    reward_model = ScoredDecoder(deepcopy(model))
    trainer = Trainer(
        config,
        policy=model,
        reference=deepcopy(model),
        critic=deepcopy(reward_model),
        rewards=build_rewards((RewardTerm(),), {"reward": reward_model}, tokenizer, config.dtype, config.micro_batch),
        pretraining=None,
        tokenizer=tokenizer,
        layout=layout,
    )
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, SHAPE["vocab"] - 64, (256, SHAPE["prompt"]), generator=generator).tolist()
    step = 0

    def turn(count: int) -> tuple[float, float]:
        nonlocal step
        seconds = before = 0.0
        for _ in range(count):
            first = step * SHAPE["batch"] % len(prompts)
            began = time.perf_counter()
            sampled = trainer.sample(step, [Prompt(ids) for ids in prompts[first : first + SHAPE["batch"]]])
            learning = time.perf_counter()
            trainer.learn(step, sampled.rollout)
            ended = time.perf_counter()
            assert sampled.rollout.response_BT.sum() == SHAPE["batch"] * SHAPE["response"]
            seconds, before, step = seconds + ended - began, before + learning - began, step + 1
        return seconds, before

    return turn


def our_sft(model, layout, precision) -> Turn:  # type: ignore[no-untyped-def]
    """The step of the stage sft."""
    from chatwright.training.batches import Ahead, Example, Packed
    from chatwright.training.language import language_parts
    from chatwright.training.loop import Trained
    from chatwright.training.optim import OptimConfig, build_optimizers

    length, rows = SHAPE["sft_length"], SHAPE["sft_rows"]
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(0, SHAPE["vocab"] - 2, (512, length + 1), generator=generator).tolist()
    mask = [place > length // 2 for place in range(length + 1)]
    talk = Ahead(Packed([Example(ids, mask) for ids in texts], length, 0, seed=0), pin=False)
    layout.spread(model).train()
    optim = OptimConfig(kind="adamw", lr=3e-6)
    trained = Trained({"model": model}, build_optimizers(model, optim), layout)
    settings = {"micro_batch": rows, "precision": precision, "layout": layout}
    return stepper(trained, optim, lambda step: language_parts(model, talk, step * rows, rows, **settings))


def our_reward(model, layout, precision) -> Turn:  # type: ignore[no-untyped-def]
    """The step of the stage reward."""
    from chatwright.model.heads import ScoredDecoder
    from chatwright.training.loop import Trained
    from chatwright.training.optim import OptimConfig, build_optimizers
    from chatwright.training.rankings import Ranking, ranking_parts

    pairs = SHAPE["pairs"]
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(0, SHAPE["vocab"] - 2, (512, 2, SHAPE["pair_length"]), generator=generator).tolist()
    rankings = [Ranking(pair, [0, 1]) for pair in texts]
    scored = layout.spread(ScoredDecoder(model)).eval()
    optim = OptimConfig(kind="adamw", lr=3e-6)
    trained = Trained({"model": scored}, build_optimizers(scored, optim), layout)

    def parts(step: int):  # type: ignore[no-untyped-def]
        first = step * pairs % len(rankings)
        return ranking_parts(scored, rankings[first : first + pairs], 2 * pairs, 0, precision, layout)

    return stepper(trained, optim, parts)


def stepper(trained, optim, parts) -> Turn:  # type: ignore[no-untyped-def]
    """Steps of one gradient each."""
    from chatwright.training.loop import gradient, update

    step = 0

    def turn(count: int) -> tuple[float, float]:
        nonlocal step
        began = time.perf_counter()
        for _ in range(count):
            gradient(trained, parts(step), optim.clip)
            update(trained, 1.0)
            step += 1
        return time.perf_counter() - began, 0.0

    return turn


def worker(side: str, task: str, precision: str) -> None:
    """Train for every line with a number on standard input; answer with seconds."""
    torch.manual_seed(0)
    if side == "trl":
        import trl_peers

        getattr(trl_peers, task)(SHAPE, trl_peers.Turns())
        return
    turn = ours(task, precision)
    for line in sys.stdin:
        print("@", *turn(int(line)), flush=True)


# --- side by side -----------------------------------------------------------------------------------------------------


class Side:
    """A worker process that waits between its turns."""

    def __init__(self, name: str, python: Path, task: str, precision: str) -> None:
        command = [str(python), __file__, "--worker", name, "--only", task, "--precision", precision]
        self.name = name
        environment = {**os.environ, "PRECISION": precision, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if name == "trl":
            environment.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment,
        )  # fmt: skip
        self.seconds: list[float] = []
        self.before: list[float] = []

    def turn(self, steps: int) -> tuple[float, float]:
        """Seconds a step, and of them before learning."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("@ "):
                seconds, before = map(float, line[2:].split())
                return seconds / steps, before / steps
        raise SystemExit(f"{self.name} broke off; run it by itself to see why: {' '.join(self.process.args)}")  # type: ignore[arg-type]

    def end(self) -> None:
        """Let the process finish."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def environment(folder: Path) -> Path:
    """The Python of an environment with TRL in it, made where it is not there."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"  {TRL} is installed into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*install, f"torch=={torch.__version__.partition('+')[0]}"], check=True)
        subprocess.run([*install, TRL], check=True)
        (folder / "ready").touch()
    return python


def measure(task: str, python: Path, rounds: int, precision: str) -> list[dict[str, object]]:
    """The results of a task, printed as they come."""
    us, trl = sides = [Side("ours", Path(sys.executable), task, precision), Side("trl", python, task, precision)]
    for side in sides:
        side.turn(2)  # warms up
    for number in range(rounds):
        for side in sides if number % 2 else reversed(sides):
            seconds, before = side.turn(STEPS[task])
            side.seconds.append(seconds)
            side.before.append(before)
        print(f"  {task}: round {number + 1} of {rounds}", file=sys.stderr)
    for side in sides:
        side.end()
    if task == "sft":
        return [result("SFT: tokens/s", SHAPE["sft_rows"] * SHAPE["sft_length"], us.seconds, trl.seconds, task)]
    if task == "reward":
        return [result("reward model: pairs/s", SHAPE["pairs"], us.seconds, trl.seconds, task)]
    answered = SHAPE["batch"] * SHAPE["response"]
    learned = SHAPE["batch"] * (SHAPE["prompt"] + SHAPE["response"]) * SHAPE["epochs"]
    learning = [[a - b for a, b in zip(side.seconds, side.before, strict=True)] for side in sides]
    return [
        result("PPO: episodes/s", SHAPE["batch"], us.seconds, trl.seconds, task),
        result("PPO rollout: answered tokens/s", answered, us.before, trl.before, None),
        result("PPO update: learned tokens/s", learned, *learning, None),
    ]


def result(name: str, amount: int, mine: list[float], theirs: list[float], task: str | None) -> dict[str, object]:
    """One line of the results: what is done in a second, and how many times as much we do."""
    rates = [amount / statistics.median(seconds) for seconds in (mine, theirs)]
    ratio = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
    target = TARGETS[task] if task else None
    print(f"  {name:32} ours {rates[0]:9.1f}   TRL {rates[1]:9.1f}   {ratio:5.2f}x")
    fields = {"name": name, "ours": round(rates[0], 2), "peer": round(rates[1], 2), "peer_version": TRL}
    return fields | {"ratio": round(ratio, 3), "target": target, "ok": target is None or ratio >= target}


def main() -> None:
    """Measure, print a table, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TASKS, help="only this one")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    default = Path(tempfile.gettempdir()) / "chatwright-trl-1.8.0"
    parser.add_argument("--venv", type=Path, default=default, help="where TRL is, or is to be, installed")
    parser.add_argument("--worker", choices=("ours", "trl"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.only, options.precision)
        return
    python = environment(options.venv)
    results = [
        line
        for task in ([options.only] if options.only else TASKS)
        for line in measure(task, python, options.rounds, options.precision)
    ]
    hardware = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {options.precision}"
    command = " ".join(["python", *sys.argv])
    print(json.dumps({"benchmark": "ppo_vs_trl", "hardware": hardware, "command": command, "results": results}))


if __name__ == "__main__":
    main()
