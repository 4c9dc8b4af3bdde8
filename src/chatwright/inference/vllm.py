"""vLLM in place of our engine, for GPUs: the same questions and answers (`EngineBackend`), by its offline API.

Written against its documentation and source as of vLLM 0.29, September 2026, and tested with a stand-in for it: it has
not been run with vLLM itself. Of all that could differ, try `VllmBackend.refresh` first: vLLM 0.14 was seen to give old
weights again (vllm-project/vllm#32718).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatwright.errors import UserError
from chatwright.inference.engine import Scored
from chatwright.inference.request import Completion, FinishReason
from chatwright.inference.sampling import Sampling
from chatwright.inference.text import AnswerText
from chatwright.tokenizer.bpe import Tokenizer

# FINISH_REASON_STRINGS of vllm/v1/engine; the others, "error" and "repetition", are of features that are not used here.
_FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "cancelled"}
_SEEDS = 2**63 - 1  # a mask: vLLM takes 64 bits, and -1 for no seed at all


class VllmBackend:
    """Answers prompts with the model of a Hugging Face folder: a model folder of ours, or another that vLLM knows.

    memory_share: of a GPU's memory, for weights, keys and values. tensor_parallel: GPUs that share the model. dtype: of
    weights and products; "auto" is the folder's own, but 16 bits where that is float32.

    What differs from `Engine`:

    - What a seed draws, and that batches may change it. Logits are as exact as ``dtype``.
    - Log-probabilities of an answer are of what it was drawn from: at the sampling temperature, as ours are, but after
      bias, penalties, schema and filters (``logprobs_mode="processed_logprobs"``; vLLM's default is the model's at
      temperature 1). With none of these set they are ours. Likeliest tokens that a filter dropped are left out.
    - ``score`` is of the model's whole vocabulary, ids that the tokenizer lacks included; a tie is not greedy.
    - An answer by a schema ends with an end of turn.
    - Stop strings are looked for after ``min_tokens`` only.
    - No timeouts, no temperature above 2, no presence or frequency penalty beyond -2 and 2: UserError.
    """

    def __init__(
        self, folder: Path, *, memory_share: float = 0.9, tensor_parallel: int = 1, dtype: str = "auto"
    ) -> None:
        """UserError when vLLM is not installed or has no class for the model."""
        self._vllm = _vllm()
        self.tokenizer = Tokenizer.load(folder)
        self.version = 0
        with self._refusals():
            self._llm = self._vllm.LLM(  # vllm/entrypoints/llm.py, vllm/engine/arg_utils.py
                model=str(folder),
                dtype=dtype,
                tensor_parallel_size=tensor_parallel,
                gpu_memory_utilization=memory_share,
                logprobs_mode="processed_logprobs",  # vllm/config/model.py
            )
        config = self._llm.model_config
        self.context: int = config.max_model_len
        self._absent = range(self.tokenizer.vocab_size, config.get_vocab_size())

    def generate(self, prompts: Sequence[list[int]], samplings: Sequence[Sampling]) -> list[Completion]:
        """Answer each prompt, in the order given; ``max_tokens`` is cut to what the context leaves.

        UserError for a prompt that is empty or fills the context, or settings that vLLM cannot obey.
        """
        assert len(prompts) == len(samplings)
        for prompt in prompts:
            self._check(prompt, len(prompt))
        with self._refusals():
            params = [self._params(s, self.context - len(p)) for p, s in zip(prompts, samplings, strict=True)]
        outputs = self._ask(prompts, params)
        return [self._completion(output, sampling) for output, sampling in zip(outputs, samplings, strict=True)]

    def score(self, prompt: list[int], continuations: Sequence[list[int]]) -> list[Scored]:
        """Log-probabilities of each continuation of a prompt, which is computed anew for each.

        UserError when one of them does not fit the context with a token to spare; a prompt must not be empty.
        """
        wholes = [prompt + continuation for continuation in continuations]
        for whole in wholes:
            self._check(prompt, len(whole))
        # vLLM must answer something; prompt_logprobs=0 asks for the prompt's own tokens alone.
        params = self._vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        outputs = self._ask(wholes, [params] * len(wholes))
        scores = []
        for whole, output in zip(wholes, outputs, strict=True):
            places = list(zip(whole, output.prompt_logprobs, strict=True))[len(prompt) :]
            entries = [entry[token] for token, entry in places]
            scores.append(Scored([entry.logprob for entry in entries], all(entry.rank == 1 for entry in entries)))
        return scores

    def refresh(self) -> None:
        """Answer with the folder's weights as they are now, after it was written again; ``version`` grows by one.

        RuntimeError when vLLM does not let go of what it computed with the old ones; nothing has changed then.
        """
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM keeps its prefix cache, which is of the old weights")
        self._llm.collective_rpc("reload_weights")  # docs/training/layerwise.md: from where they were first loaded
        self.version += 1

    # --- inside -------------------------------------------------------------------------------------------------------

    def _check(self, prompt: list[int], length: int) -> None:
        """UserError for a prompt that is empty, or when ``length`` tokens leave no room for another."""
        if not prompt:
            raise UserError("The prompt is empty; give it at least one token.")
        if length >= self.context:  # vLLM refuses a prompt of just the context's length, too
            raise UserError(
                f"The prompt is {length} tokens long and the model's context is {self.context}; please shorten it."
            )

    def _params(self, sampling: Sampling, room: int) -> Any:
        """Our settings as vLLM's, whose fields are of vllm/sampling_params.py."""
        if sampling.timeout is not None:
            raise UserError("vLLM gives no answer a timeout; leave it out, or use the built-in engine.")
        most = min(sampling.max_tokens, room)
        bias = {token: value for token, value in sampling.logit_bias.items() if token < self.tokenizer.vocab_size}
        bias |= dict.fromkeys(self._absent, -math.inf)
        return self._vllm.SamplingParams(
            max_tokens=most,
            min_tokens=min(sampling.min_tokens, most),
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=sampling.seed & _SEEDS,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logit_bias=bias or None,
            stop=list(sampling.stop),
            stop_token_ids=sorted(self.tokenizer.stops),
            logprobs=sampling.logprobs,
            structured_outputs=self._structure(sampling.schema),
            detokenize=bool(sampling.stop),  # the text is made here; vLLM needs it to find stop strings
        )

    def _structure(self, schema: Mapping[str, Any] | None) -> Any:
        if schema is None:
            return None
        kind = self._vllm.sampling_params.StructuredOutputsParams
        return kind(json=dict(schema)) if schema else kind(json_object=True)

    def _ask(self, prompts: Sequence[list[int]], params: Sequence[Any]) -> list[Any]:
        """vLLM's outputs, in the order of the prompts."""
        if not prompts:
            return []
        with self._refusals():
            return self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)

    def _completion(self, output: Any, sampling: Sampling) -> Completion:
        """An output (vllm/outputs.py) as ours."""
        answer = output.outputs[0]
        tokens = list(answer.token_ids)
        text = AnswerText(self.tokenizer.stream(), sampling.stop)
        for token in tokens:
            text.feed(token)
        text.end()
        heard = [] if sampling.logprobs is None else list(zip(tokens, answer.logprobs, strict=True))
        return Completion(
            tokens,
            [entry[token].logprob for token, entry in heard],
            _FINISH_REASONS[answer.finish_reason],
            "".join(text.pieces),
            [_likeliest(entry, sampling.logprobs) for _, entry in heard] if sampling.logprobs else [],
            output.num_cached_tokens or 0,
            self.version,
        )

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What vLLM says of a model or of settings that it cannot use, as UserError."""
        try:
            yield
        # The second is a ValueError in older versions only.
        except (ValueError, self._vllm.exceptions.VLLMValidationError) as error:
            raise UserError(f"vLLM refuses this: {' '.join(str(error).split()).rstrip('.')}.") from error


def _vllm() -> Any:
    """The package, with the parts of it that are used."""
    try:
        import vllm
        import vllm.exceptions
        import vllm.sampling_params
    except ImportError as error:  # also where a library of the GPU's is missing
        raise UserError(
            f"Answers by vLLM need the package vllm ({str(error).rstrip('.')}); install chatwright[vllm]."
        ) from None
    return vllm


def _likeliest(entry: Mapping[int, Any], count: int) -> tuple[tuple[int, float], ...]:
    """The likeliest ids of a place with their log-probabilities; vLLM adds the chosen token, and those of no chance."""
    kept = [(token, found.logprob) for token, found in entry.items() if found.logprob > -math.inf]
    return tuple(sorted(kept, key=lambda pair: -pair[1])[:count])
