"""The engine: answers, scores and embeds many texts at once, with continuous batching over a paged, shared cache.

The result of a request depends on its own prompt, settings and seed; its neighbours in a batch can change logits by
rounding only. Ids that the tokenizer does not have (a vocabulary rounded up) are never chosen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from chatwright.errors import UserError
from chatwright.inference import scheduler, speculation
from chatwright.inference.blocks import BLOCK, BlockPool
from chatwright.inference.cache import SHORT, PagedCache, block_bytes
from chatwright.inference.constraint import Constraint
from chatwright.inference.graphs import StepGraphs
from chatwright.inference.prompts import fit
from chatwright.inference.request import Completion, Request
from chatwright.inference.sampling import Row, Sampling, choose
from chatwright.inference.scheduler import Scheduler, Work
from chatwright.inference.text import AnswerText
from chatwright.inference.weights import IN_PLACE, Precision, pack, packed
from chatwright.model.decoder import Decoder
from chatwright.records import Message
from chatwright.tokenizer.bpe import Tokenizer

GIB = 2**30


@dataclass(frozen=True)
class Scored:
    """logprobs: of each token of a continuation, given all before it. greedy: whether each was the likeliest."""

    logprobs: list[float]
    greedy: bool


@dataclass(frozen=True)
class Load:
    """How busy an engine is. blocks, free: of the cache, BLOCK tokens each. preempted: requests put back so far."""

    running: int
    waiting: int
    blocks: int
    free: int
    preempted: int


class Engine:
    """Answers prompts with a model. It changes neither the model's weights nor its mode.

    batch_size: the most requests at once. precision: of weights and products; None leaves the model's own, sharing its
    weights. memory: bytes for keys and values; by default 1 GiB, or an eighth of what a GPU has free. step_tokens: the
    most tokens of a step, so how long a prompt may hold up running answers; by default 256, or 4,096 on a GPU. waiting:
    the most requests that may wait, None for any number. drafts: the most tokens that are guessed from what was said
    before and checked together (see `speculation`); 0 for none. prefix_cache: whether what is computed for one text
    serves others that begin alike.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        batch_size: int = 64,
        *,
        precision: Precision | None = None,
        memory: float | None = None,
        step_tokens: int | None = None,
        waiting: int | None = None,
        drafts: int = 0,
        prefix_cache: bool = True,
    ) -> None:
        self._source = weakref.ref(model)
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.precision = precision
        self.drafts = drafts
        self.prefix_cache = prefix_cache
        self.model = model if precision is None else packed(model, precision)
        self.version = 0
        config, device = model.config, model.embedding.weight.device
        dtype = self.model.embedding.weight.dtype
        gpu = device.type == "cuda"
        if memory is None:
            memory = torch.cuda.mem_get_info(device)[0] / 8 if gpu else GIB
        if step_tokens is None:
            step_tokens = 4096 if gpu else 256
        per_text = -(-config.context // BLOCK)
        blocks = max(1, min(batch_size * per_text, int(memory // block_bytes(config, dtype))))
        with torch.inference_mode():
            self._cache = PagedCache(config, blocks, dtype, device)
        self._graphs = StepGraphs(self.model, self._cache) if gpu else None
        self._pool = BlockPool(blocks)
        self._scheduler = Scheduler(self._pool, batch_size, max(step_tokens, batch_size), waiting)
        self._requests: dict[scheduler.Sequence, Request] = {}

    # --- one request at a time, for servers ---------------------------------------------------------------------------

    def submit(self, prompt: list[int], sampling: Sampling) -> Request:
        """Queue a prompt; `step` works on it. ``max_tokens`` is cut to what the context and the cache leave.

        UserError for a prompt that is empty or fills the context, or settings that cannot be obeyed; QueueFull.
        """
        self._check(prompt)
        room = self.context - len(prompt)
        answer = min(sampling.max_tokens, room)
        request = Request(
            self._sequence(prompt, answer),
            sampling,
            text=AnswerText(self.tokenizer.stream(), sampling.stop),
            uniforms=sampling.uniforms(answer).tolist() if sampling.temperature else [],
            constraint=None if sampling.schema is None else Constraint(self.tokenizer, sampling.schema),
            stops=frozenset(self.tokenizer.stops),
        )
        return self._add(request)

    def cancel(self, request: Request) -> None:
        """Drop a request; its room is free at once. Harmless when it is done."""
        if request.finish_reason is None:
            self._end(request, "cancelled")

    @property
    def source(self) -> Decoder | None:
        """The model that it was made from. Where the weights are the engine's own, it lives as long as others need it:
        one that is only served gives its memory back.
        """
        return self._source()

    @property
    def context(self) -> int:
        """The most tokens of a prompt and its answer."""
        return min(self.model.config.context, self._pool.total * BLOCK)

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._requests)

    @property
    def load(self) -> Load:
        """How busy it is now."""
        line = self._scheduler
        return Load(len(line.running), len(line.waiting), self._pool.total, self._pool.free, line.preempted)

    def step(self) -> list[Request]:
        """Compute one batch; the requests that got something, or were ended, by it."""
        ended = [request for request in self._requests.values() if request.overdue]
        for request in ended:
            self._end(request, "timeout")
        self._guess()
        work = sorted(self._scheduler.step(), key=lambda part: part.count > SHORT)
        if not work:
            return ended
        with _inference(self.model):
            hidden_ND = self._hidden(work)
            self._scheduler.done(work)
            return ended + self._use(work, hidden_ND)

    def refresh(self, model: Decoder | None = None) -> None:
        """Answer with the model's weights as they are now, after they were changed; ``version`` grows by one.

        model: one like it, to take the weights of from now on; only where the engine has weights of its own.
        RuntimeError while requests are under way, since an answer is of one version, and when the model is gone.
        """
        if self.busy:
            raise RuntimeError("weights were changed while requests are under way; finish or cancel them first")
        if model is not None:
            assert self.precision is not None, "an engine that shares its model's weights stays with that model"
            self._source = weakref.ref(model)
        if self.precision is not None:
            if (source := self.source) is None:
                raise RuntimeError("the model that these weights were made from is gone; keep it to refresh them")
            pack(source, self.model, self.precision)
            if self._graphs is not None and self.precision not in IN_PLACE:
                self._graphs = StepGraphs(self.model, self._cache)
        self._pool.forget()
        self.version += 1

    # --- many at once -------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[list[int]], samplings: Sequence[Sampling]) -> list[Completion]:
        """Answer each prompt, in the order given; see `submit`."""
        assert len(prompts) == len(samplings)
        for prompt in prompts:
            self._check(prompt)
        requests = [self.submit(prompt, sampling) for prompt, sampling in zip(prompts, samplings, strict=True)]
        self._run(requests)
        return [request.completion() for request in requests]

    def stream(
        self, prompt: list[int], sampling: Sampling, stopped: Callable[[], bool] = lambda: False
    ) -> Generator[str, None, Completion]:
        """Yield the answer in pieces of whole characters; the generator's return value is the completion.

        ``stopped`` is asked before every token. Joined, the pieces are the completion's text.
        """
        request = self.submit(prompt, sampling)
        assert request.text is not None
        said = 0
        try:
            while request.finish_reason is None and not stopped():
                self.step()
                yield from request.text.pieces[said:]
                said = len(request.text.pieces)
        finally:
            self.cancel(request)
        yield from request.text.pieces[said:]
        return request.completion()

    def score(self, prompt: list[int], continuations: Sequence[list[int]]) -> list[Scored]:
        """Log-probabilities of each continuation of a prompt, which is computed once for all of them.

        UserError when one of them does not fit the context; a prompt must not be empty.
        """
        requests = []
        for continuation in continuations:
            whole = prompt + continuation
            self._check(prompt, len(whole) - 1)
            sequence = self._sequence(whole, 0, reusable=len(prompt) - 1)
            requests.append(Request(sequence, Sampling(), scored_from=len(prompt)))
        for request in requests:
            if request.scored_from == len(request.sequence.tokens):
                request.finish("length")  # nothing to score
            else:
                self._add(request)
        self._run(requests)
        return [Scored(request.logprobs, request.greedy) for request in requests]

    def embed(self, texts: Sequence[list[int]]) -> Tensor:
        """The final state after each text, float32 [len(texts), D]. UserError when one is empty or too long."""
        requests = []
        for text in texts:
            self._check(text, len(text) - 1)
            sequence = self._sequence(text, 0, reusable=len(text) - 1)
            requests.append(self._add(Request(sequence, Sampling(), pooled=True)))
        self._run(requests)
        states = [request.state for request in requests if request.state is not None]
        return torch.stack(states) if states else torch.empty(0, self.model.config.d_model)

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> str:
        """The answer to a conversation, as text; its oldest turns are dropped if it is too long."""
        return self.chat_batch([messages], sampling)[0]

    def chat_batch(self, conversations: Sequence[Sequence[Message]], sampling: Sampling) -> list[str]:
        """`chat` for each conversation, all with the same settings and seed."""
        prompts = [self.prompt(messages, sampling.max_tokens) for messages in conversations]
        return [completion.text for completion in self.generate(prompts, [sampling] * len(prompts))]

    def prompt(self, messages: Sequence[Message], max_tokens: int) -> list[int]:
        """The prompt that asks for the next answer; oldest turns that leave it no room are dropped (see `fit`)."""
        return fit(messages, self.tokenizer, self.model.config.context, max_tokens).ids

    def forward(self, work: Sequence[Work]) -> Tensor:
        """Compute parts of texts that are no requests and have their blocks: float32 logits after each, [R, V].

        Long parts must come after all short ones.
        """
        with _inference(self.model):
            hidden_ND = self._hidden(work)
            self._scheduler.done(work)
            return self._logits(hidden_ND[[end - 1 for end in accumulate(part.count for part in work)]])

    # --- inside -------------------------------------------------------------------------------------------------------

    def _check(self, prompt: list[int], longer: int = 0) -> None:
        """UserError for a prompt that is empty or leaves no room; ``longer``: what is to be read, if it is more."""
        context = self.model.config.context
        if not prompt:
            raise UserError("The prompt is empty; give it at least one token.")
        if max(len(prompt), longer) >= context:
            raise UserError(
                f"The prompt is {max(len(prompt), longer)} tokens long and the model's context is {context}; "
                "please shorten it."
            )
        if max(len(prompt), longer) >= self._pool.total * BLOCK:
            raise UserError(
                f"The prompt is {max(len(prompt), longer)} tokens long and the engine's memory holds "
                f"{self._pool.total * BLOCK}; shorten it or give the engine more memory."
            )

    def _sequence(self, tokens: list[int], answer: int, reusable: int | None = None) -> scheduler.Sequence:
        shared = (len(tokens) + answer if reusable is None else reusable) if self.prefix_cache else 0
        return scheduler.Sequence(list(tokens), limit=len(tokens) + answer, reusable=shared)

    def _add(self, request: Request) -> Request:
        request.version = self.version
        self._scheduler.add(request.sequence)
        self._requests[request.sequence] = request
        return request

    def _run(self, requests: Sequence[Request]) -> None:
        """Work until all of these are done; none is left behind when that fails."""
        try:
            while any(request.finish_reason is None for request in requests):
                self.step()
        finally:
            for request in requests:
                self.cancel(request)

    def _end(self, request: Request, reason: str) -> None:
        if request.finish_reason is None:
            request.finish(reason)  # type: ignore[arg-type]
        if self._requests.pop(request.sequence, None) is not None:
            self._scheduler.remove(request.sequence)

    def _guess(self) -> None:
        """Give running answers drafts where few of them share a step, so that checking these costs little."""
        if not self.drafts or len(self._requests) > speculation.MOST_ANSWERS:
            return
        for request in self._requests.values():
            if request.generates and request.constraint is None and not request.sampling.edits:
                most = min(self.drafts, SHORT - 1)
                request.sequence.draft = speculation.lookup(request.sequence.tokens, most)

    def _hidden(self, work: Sequence[Work]) -> Tensor:
        """The final states of all tokens of a step, [N, D]."""
        if self._graphs is None:
            return self._computed(work)
        short = [part for part in work if part.count <= SHORT]
        states = [self._graphs.hidden(short, tokens_of(short))] if short else []
        if len(short) < len(work):
            states.append(self._computed(work[len(short) :]))
        return torch.cat(states)

    def _computed(self, work: Sequence[Work]) -> Tensor:
        """`_hidden`, one operation after the other."""
        tokens = tokens_of(work)
        positions_N = self._cache.begin(work)
        tokens_1N = torch.tensor([tokens], device=positions_N.device)
        return self.model.hidden(tokens_1N, positions_BT=positions_N[None], cache=self._cache)[0]

    def _use(self, work: Sequence[Work], hidden_ND: Tensor) -> list[Request]:
        """Choose tokens, score or keep states, as each request wants; returns those that got something."""
        chosen_from: list[tuple[Request, int]] = []  # and how many rows: one, and one for each draft
        places: list[int] = []
        rows: list[Row] = []
        changed: list[Request] = []
        first = 0
        for part in work:
            request = self._requests[part.sequence]
            end = part.start + part.count
            if request.scored_from is not None:
                self._score(request, part, hidden_ND[first : first + part.count])
            elif end >= len(part.sequence.tokens) and request.pooled:
                request.state = hidden_ND[first + part.count - 1].float()
                request.finish("length")
            elif end >= len(part.sequence.tokens):
                count = end - len(part.sequence.tokens) + 1
                chosen_from.append((request, count))
                places += range(first + part.count - count, first + part.count)
                rows += [request.row(ahead) for ahead in range(count)]
            first += part.count
            if not request.generates:
                changed.append(request)
        if rows:
            hidden_RD = hidden_ND if len(places) == len(hidden_ND) else hidden_ND[places]
            logits_RV = self._logits(hidden_RD)
            choices = iter(choose(logits_RV, rows))
            for request, count in chosen_from:
                own = [next(choices) for _ in range(count)]
                draft = request.sequence.draft[: count - 1]
                for place, choice in enumerate(own):
                    request.take(choice)
                    if request.finish_reason or place == len(draft) or draft[place] != choice.token:
                        break
                request.sequence.computed = len(request.sequence.tokens) - 1
                request.sequence.draft = []
                changed.append(request)
        for request in changed:
            if request.finish_reason is not None:
                self._end(request, request.finish_reason)
        return changed

    def _logits(self, hidden_RD: Tensor) -> Tensor:
        """Float32 logits of the ids that the tokenizer has, [R, V], free to be changed."""
        logits_RV = self.model.logits(hidden_RD)[:, : self.tokenizer.vocab_size]
        return logits_RV.float() if logits_RV.dtype != torch.float32 else logits_RV

    def _score(self, request: Request, part: Work, hidden_ND: Tensor) -> None:
        """Log-probabilities of the tokens after those of a part, of what is to be scored."""
        tokens, scored_from = part.sequence.tokens, request.scored_from
        assert scored_from is not None
        first = max(part.start, scored_from - 1)
        last = min(part.start + part.count, len(tokens) - 1)
        if first < last:
            logits_TV = self._logits(hidden_ND[first - part.start : last - part.start])
            targets_T = torch.tensor(tokens[first + 1 : last + 1], device=logits_TV.device)
            chosen_T = logits_TV.gather(1, targets_T[:, None]).squeeze(1)
            request.logprobs += (chosen_T - logits_TV.logsumexp(1)).tolist()
            request.greedy &= bool((logits_TV.argmax(1) == targets_T).all())
        if part.start + part.count >= len(tokens) - 1:
            request.finish("length")


def tokens_of(work: Sequence[Work]) -> list[int]:
    """The tokens of a step's parts, what is known of each before what is guessed."""
    tokens: list[int] = []
    for part in work:
        known = part.sequence.tokens[part.start : part.start + part.count]
        tokens += known + part.sequence.draft[: part.count - len(known)]
    return tokens


@contextmanager
def _inference(model: Decoder) -> Iterator[None]:
    """No autograd, no autocast and no dropout inside; the model's mode is as before outside.

    Nor PyTorch's deterministic mode on a GPU: nothing here depends on an order, each place of the cache being written
    once, and in that mode every write copies the whole cache.
    """
    training, device = model.training, model.embedding.weight.device.type
    slow = device == "cuda" and torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if training:
        model.eval()
    if slow:
        torch.use_deterministic_algorithms(False)
    try:
        with torch.inference_mode(), torch.autocast(device, enabled=False):
            yield
    finally:
        if slow:
            torch.use_deterministic_algorithms(True, warn_only=warn_only)
        if training:
            model.train()
