"""A decoder with a scalar head: the reward model, and the value function that PPO starts from it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatwright.model.decoder import Decoder, KeyValues


class ScoredDecoder(nn.Module):
    """One score a token, [B, T]: the head of the token's state, minus ``bias``.

    ``bias`` is a float buffer that shifts scores, such as the mean score of demonstrations (InstructGPT 3.5). The head
    has no bias of its own. Scores are float32 under autocast too: their differences are small.
    """

    bias: Tensor

    def __init__(self, decoder: Decoder, generator: torch.Generator | None = None) -> None:
        """Wrap ``decoder`` (not a copy) with a head drawn from N(0, 1/sqrt(d_model + 1)) (NDET)."""
        super().__init__()
        self.decoder = decoder
        width = decoder.config.d_model
        self.head = nn.Linear(width, 1, bias=False, device=decoder.embedding.weight.device)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(width + 1), generator=generator)
        self.register_buffer("bias", torch.zeros((), device=decoder.embedding.weight.device))

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask_BTS: Tensor | None = None,
        cache: KeyValues | None = None,
        places_N: Tensor | None = None,
    ) -> Tensor:
        """Scores after each token, [B, T], or after those at ``places_N``, [N]; arguments as in `Decoder.hidden`."""
        hidden_BTD = self.decoder.hidden(
            tokens_BT, positions_BT=positions_BT, mask_BTS=mask_BTS, cache=cache, places_N=places_N
        )
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            return F.linear(hidden_BTD.float(), self.head.weight.float()).squeeze(-1) - self.bias

    @torch.no_grad()
    def zero_head(self) -> None:
        """Make every score 0, as a fresh value function starts (NDET)."""
        self.head.weight.zero_()
        self.bias.zero_()
