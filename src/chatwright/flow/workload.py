"""How much work each stage of a recipe has, computed from its config before there is any data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from chatwright.atlas.stage import ConversationsConfig
from chatwright.corpus.stage import CorpusConfig
from chatwright.errors import UserError
from chatwright.evaluation.report import ReportConfig
from chatwright.evaluation.stage import EvaluateConfig
from chatwright.flow import graph
from chatwright.flow.recipe import Instance, Recipe
from chatwright.formats import files_of
from chatwright.model.config import ModelConfig, parameter_count
from chatwright.model.cost import train_flops
from chatwright.model.folder import read_shape
from chatwright.model.imported import ImportConfig
from chatwright.stage import StageConfig
from chatwright.tokenizer.shards import ShardsConfig
from chatwright.tokenizer.stage import TokenizerConfig
from chatwright.training.best_of_n import BestOfNConfig
from chatwright.training.choose import ChooseConfig
from chatwright.training.compare import CompareConfig
from chatwright.training.comparisons import ComparisonsConfig
from chatwright.training.dpo import DpoConfig
from chatwright.training.grpo import GrpoConfig
from chatwright.training.ppo.config import PpoConfig, RolloutConfig
from chatwright.training.pretrain import PretrainConfig, model_from_table
from chatwright.training.reward import RewardConfig
from chatwright.training.rewards import models_of
from chatwright.training.sft import SftConfig

ConfigT = TypeVar("ConfigT", bound=StageConfig)

# Of the built-in conversations with a vocabulary of 4,096; the data are not there yet when a plan is made.
DEMONSTRATION_BYTES = 1_600_000  # demonstrations.jsonl
BYTES_PER_TOKEN = 6.7  # of such a file, its JSON included
QUESTIONS, KINDS = 1_500, 12  # of the evaluation
QUICK = ("examine", "import", "people", "pool", "match", "best")  # stages that take seconds, whatever their size
PROMPT, ANSWER = 20, 16  # tokens of a question and of its answer
BYTES_PER_PAIR_TOKEN = 9.0  # of hh-rlhf, in which a prompt stands twice and is read once
PAIR, WHOLE_PAIR = 200, 300  # tokens of one of its pairs, with its prompt once and twice


@dataclass(frozen=True)
class Work:
    """What a stage has to do.

    tokens: that pass through a model to be learned from or judged. sampled: that a model writes, one after another.
    products: floating-point operations in matrix products. plain: bytes or tokens handled without a model.
    parameters: of the model that comes out.
    """

    tokens: int = 0
    sampled: int = 0
    products: float = 0.0
    plain: float = 0.0
    parameters: int = 0


@dataclass(frozen=True)
class Configs:
    """The configs that a stage's work follows from, and the model that all of them are about."""

    conversations: ConversationsConfig
    model: ModelConfig
    tuned: Mapping[str, SftConfig]  # by instance

    def answers(self, compare: CompareConfig) -> int:
        """Answers that are compared, to all prompts together."""
        prompts = min(compare.prompts or self.conversations.prompt_count, self.conversations.prompt_count)
        return prompts * (compare.answers_min + compare.answers_max) // 2

    def learn(self, tokens: float) -> float:
        """Operations of learning from ``tokens``."""
        return train_flops(self.model, round(tokens))

    def judge(self, tokens: float) -> float:
        """Operations of one pass forward: a third of learning, whose pass backward costs two."""
        return self.learn(tokens) / 3


def workloads(recipe: Recipe) -> dict[str, Work]:
    """The work of every instance whose stage is known here. UserError when the model cannot be built."""
    by_name = {instance.name: instance.config for instance in recipe.instances}
    pretrain = _get(by_name, "pretrain", PretrainConfig)
    tokenizer = _get(by_name, "tokenizer", TokenizerConfig) or TokenizerConfig()
    model = _model(pretrain, tokenizer.vocab_size, recipe.path) if pretrain else _imported(by_name)
    if model is None:
        return {i.name: work for i in recipe.instances if (work := _plain_work(i.config)) is not None}
    configs = Configs(
        conversations=_get(by_name, "conversations", ConversationsConfig) or ConversationsConfig(),
        model=model,
        tuned={name: c for name, c in by_name.items() if isinstance(c, SftConfig)},
    )
    compared = {name: c for name, c in by_name.items() if isinstance(c, CompareConfig)}
    return {
        i.name: work
        for i in recipe.instances
        if (work := _work(i, configs, [compared[name] for name in _sources(recipe, i, compared)])) is not None
    }


def _sources(recipe: Recipe, instance: Instance, compared: Mapping[str, CompareConfig]) -> list[str]:
    """What a stage's comparisons come from: all the comparing that it is made from."""
    if not isinstance(instance.config, ComparisonsConfig):
        return []
    return [name for name in graph.needed_for(recipe, (instance.name,)) if name in compared]


def _imported(configs: Mapping[str, StageConfig]) -> ModelConfig | None:
    """The shape of the model that a recipe starts from, where that is a folder."""
    for name in ("pretrain", "sft"):
        config = _get(configs, name, ImportConfig)
        if config is not None and config.model.is_dir():
            return read_shape(config.model)
    return None


def _model(config: PretrainConfig, vocab_size: int, recipe: Path) -> ModelConfig:
    """The model that a recipe describes. UserError when it cannot be."""
    try:
        return model_from_table(config.model, vocab_size)
    except UserError as error:
        raise UserError(f"{recipe}: [pretrain] model: {error}") from None


def _get(configs: Mapping[str, StageConfig], name: str, kind: type[ConfigT]) -> ConfigT | None:
    found = configs.get(name)
    return found if isinstance(found, kind) else None


def _work(instance: Instance, configs: Configs, compared: Sequence[CompareConfig]) -> Work | None:
    """The work of one instance; None for a stage that is not known here. ``compared``: what its comparisons are of."""
    match instance.config:
        case PretrainConfig() as config:
            return _pretrain(config, configs)
        case SftConfig() as config:
            return _sft(config, configs)
        case CompareConfig() as config:
            return _compare(config, configs)
        case RewardConfig() as config:
            return _reward(config, configs, compared)
        case ChooseConfig() as config:
            return _choose(config, configs)
        case DpoConfig() as config:
            return _dpo(config, configs, compared)
        case BestOfNConfig() as config:
            return _best_of_n(config, configs)
        case PpoConfig() as config:
            return _rollouts(config, configs, learning=2)  # policy and critic
        case GrpoConfig() as config:
            return _rollouts(config, configs, learning=1)
        case EvaluateConfig() as config:
            return _evaluate(config, configs)
    return Work() if instance.stage.name in QUICK else _plain_work(instance.config)


def _plain_work(config: StageConfig) -> Work | None:
    """The work of a stage that has to do with no model."""
    match config:
        case TokenizerConfig():
            return Work(plain=config.sample_bytes)
        case ShardsConfig():
            return Work(plain=config.tokens)
        case ConversationsConfig() | CorpusConfig() | ReportConfig():
            return Work()
    return None


def _pretrain(config: PretrainConfig, configs: Configs) -> Work:
    model = model_from_table(config.model, configs.model.vocab_size)  # a variant may have another one
    tokens = config.first_rows()[-1] * model.context
    measured = (config.steps // config.eval_every + 1) * config.eval_tokens
    products = train_flops(model, tokens) + train_flops(model, measured) / 3
    return Work(tokens=tokens, products=products, parameters=parameter_count(model))


def _sft(config: SftConfig, configs: Configs) -> Work:
    row = min(config.length or configs.model.context, configs.model.context)
    path = config.data or configs.conversations.demonstrations
    demonstrations = (_bytes(path) if path else DEMONSTRATION_BYTES) / BYTES_PER_TOKEN
    rows = config.batch - config.text_rows
    steps = config.steps or round(config.epochs * demonstrations / row / rows) + 1
    measured = (steps // config.eval_every + 1) * config.eval_tokens
    tokens = steps * config.batch * row
    return Work(tokens, 0, configs.learn(tokens) + configs.judge(measured), 0, parameter_count(configs.model))


def _bytes(path: Path) -> int:
    """Of the files that a config names as data."""
    return sum(file.stat().st_size for file in files_of(path))


def _compare(config: CompareConfig, configs: Configs) -> Work:
    answers = configs.answers(config)
    sampled = answers * min(ANSWER, config.max_tokens)
    return Work(sampled=sampled, products=configs.judge(sampled + answers * PROMPT))


def _reward(config: RewardConfig, configs: Configs, compared: Sequence[CompareConfig]) -> Work:
    if config.data is None:
        answers = sum(configs.answers(compare) for compare in compared)
        tokens = round(config.epochs * answers * (PROMPT + ANSWER))
    else:
        size = _bytes(config.data) / BYTES_PER_PAIR_TOKEN
        tokens = round(config.epochs * min(size, (config.prompts or math.inf) * PAIR))
    return Work(tokens=tokens, products=configs.learn(tokens), parameters=parameter_count(configs.model))


def _dpo(config: DpoConfig, configs: Configs, compared: Sequence[CompareConfig]) -> Work:
    """As the reward model, but each answer goes through the model with its prompt; and once more for the reference."""
    if config.data is None:
        tokens = sum(configs.answers(compare) for compare in compared) * (PROMPT + ANSWER)
    else:
        pairs = min(_bytes(config.data) / BYTES_PER_PAIR_TOKEN / PAIR, config.prompts or math.inf)
        tokens = round(pairs * min(WHOLE_PAIR, 2 * (config.max_tokens or math.inf)))
    learned = round(config.epochs * tokens)
    products = configs.learn(learned) + configs.judge(tokens)
    return Work(tokens=learned, products=products, parameters=parameter_count(configs.model))


def _choose(config: ChooseConfig, configs: Configs) -> Work:
    """Every model that was kept answers every prompt, and the reward model reads that."""
    tuned = configs.tuned.get(config.among, SftConfig())
    answers = math.ceil(tuned.epochs / (tuned.keep_epochs or tuned.epochs)) * config.prompts
    sampled = answers * min(ANSWER, config.max_tokens)
    return Work(0, sampled, configs.judge(2 * (sampled + answers * PROMPT)), 0, parameter_count(configs.model))


def _best_of_n(config: BestOfNConfig, configs: Configs) -> Work:
    """n answers to each prompt, and the reward model's pass over them."""
    prompts = configs.conversations.prompt_count if config.prompts is None else config.prompts
    answers = config.n * (prompts + config.eval_prompts)
    sampled = answers * min(ANSWER, config.max_tokens)
    passes = 1 + len(models_of(config.rewards))
    return Work(sampled=sampled, products=configs.judge(passes * (sampled + answers * PROMPT)))


def _rollouts(config: RolloutConfig, configs: Configs, learning: int) -> Work:
    """Sampling; passes forward (policy, reference, critic, reward model); ``learning`` models that learn; the mix."""
    answer = min(ANSWER, config.max_tokens)
    judging = 1 + learning + len(models_of(config.rewards))
    judged = config.episodes * (PROMPT + answer)
    mixed = 0
    if config.ptx_coef:
        mixed = config.episodes // config.minibatch * config.inner_epochs * config.ptx_windows * config.ptx_length
    learned = config.inner_epochs * judged
    sampled = (config.episodes + 2 * config.eval_prompts) * answer
    products = configs.judge(judging * judged + sampled) + configs.learn(learning * learned + mixed)
    return Work(learned + mixed, sampled, products, 0, parameter_count(configs.model))


def _evaluate(config: EvaluateConfig, configs: Configs) -> Work:
    """The SFT model and the last one answer everything; the pretrained one some, to the limit of every answer."""
    sampled = 2 * QUESTIONS * ANSWER + KINDS * config.base_questions * config.max_tokens
    return Work(sampled=sampled, products=configs.judge(sampled))
