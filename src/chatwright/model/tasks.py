"""GPT-1's fine-tuning: how a task's texts become one sequence, and the head that reads its last token.

Radford 2018, section 3.3 and figure 1: every input is wrapped in three new tokens, Start, Delim and Extract, and a
linear layer on the final block's state at Extract gives the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chatwright.model.decoder import Decoder


@dataclass(frozen=True)
class TaskTokens:
    """The ids of the three new tokens, and how texts become sequences of at most ``context`` ids.

    Of texts that are too long together, the longest loses ids at its end until all fit, so that the others stay whole
    as long as they can. Ours; the paper is silent.
    """

    start: int
    delim: int
    extract: int
    context: int

    @classmethod
    def after(cls, vocab_size: int, context: int) -> TaskTokens:
        """The three ids that follow a vocabulary; `extend_vocabulary` makes room for them."""
        return cls(vocab_size, vocab_size + 1, vocab_size + 2, context)

    def classification(self, text: Sequence[int]) -> list[int]:
        """Start, text, Extract."""
        return self._joined([text])

    def entailment(self, premise: Sequence[int], hypothesis: Sequence[int]) -> list[int]:
        """Start, premise, Delim, hypothesis, Extract."""
        return self._joined([premise, hypothesis])

    def similarity(self, first: Sequence[int], second: Sequence[int]) -> list[list[int]]:
        """Both orders of the two texts, which have none of their own; their states are added before the head."""
        return [self._joined([first, second]), self._joined([second, first])]

    def multiple_choice(self, context: Sequence[int], answers: Sequence[Sequence[int]]) -> list[list[int]]:
        """One sequence a choice; each gets one score, and a softmax goes over the choices."""
        return [self._joined([context, answer]) for answer in answers]

    def _joined(self, texts: Sequence[Sequence[int]]) -> list[int]:
        room = self.context - len(texts) - 1
        assert room >= len(texts), f"a context of {self.context} tokens has no room for {len(texts)} texts"
        sizes = [len(text) for text in texts]
        while sum(sizes) > room:
            longest = max(range(len(sizes)), key=lambda i: sizes[i])
            sizes[longest] -= 1
        ids = [self.start]
        for text, size in zip(texts, sizes, strict=True):
            ids += [*text[:size], self.delim]
        ids[-1] = self.extract
        return ids


@torch.no_grad()
def extend_vocabulary(decoder: Decoder, count: int, generator: torch.Generator | None = None) -> Decoder:
    """A decoder with ``count`` more ids, whose rows are drawn from N(0, 0.02) (GPT-1, 4.1); all else is shared."""
    config = decoder.config
    with torch.device("meta"):
        extended = Decoder(config.model_copy(update={"vocab_size": config.vocab_size + count}))
    state = decoder.state_dict()
    for name in ("embedding.weight", "head.weight"):
        if name in state:
            rows = torch.empty(count, config.d_model, device=state[name].device, dtype=state[name].dtype)
            nn.init.normal_(rows, std=0.02, generator=generator)
            state[name] = torch.cat((state[name], rows))
    extended.load_state_dict(state, assign=True)
    for name, buffer in decoder.named_buffers():
        extended.register_buffer(name, buffer, persistent=False)
    return extended


class ClassifiedDecoder(nn.Module):
    """Class scores of whole sequences, with the language model's logits beside them for the auxiliary loss.

    classes: 1 for multiple choice and for regression. The head's weights are N(0, 0.02), its bias 0; dropout 0.1 before
    it (GPT-1, 4.1).
    """

    def __init__(
        self, decoder: Decoder, classes: int, dropout: float = 0.1, generator: torch.Generator | None = None
    ) -> None:
        """Wrap ``decoder``, not a copy."""
        super().__init__()
        self.decoder = decoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(decoder.config.d_model, classes, device=decoder.embedding.weight.device)
        nn.init.normal_(self.head.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens_BPT: Tensor, last_BP: Tensor) -> tuple[Tensor, Tensor]:
        """``(scores_BC, logits_BPTV)`` of P sequences an example, whose states are added before the head.

        last_BP: where Extract stands in each; what follows it is padding on the right, which causality hides. P is 2
        for `TaskTokens.similarity` and 1 otherwise; the choices of a multiple-choice example are examples here.
        """
        B, P, T = tokens_BPT.shape
        hidden_BPTD = self.decoder.hidden(tokens_BPT.reshape(B * P, T)).view(B, P, T, -1)
        index_BP1D = last_BP[:, :, None, None].expand(-1, -1, 1, hidden_BPTD.shape[-1])
        state_BD = hidden_BPTD.gather(2, index_BP1D).sum(dim=(1, 2))
        return self.head(self.dropout(state_BD)), self.decoder.logits(hidden_BPTD)
