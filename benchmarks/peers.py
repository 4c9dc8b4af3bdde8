"""The peers of `train_vs_peers.py`: a GPT-2 as nanoGPT trains it, in plain PyTorch, and Hugging Face's GPT-2."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[Tensor, Tensor], float]  # tokens and targets, [B, T] each, to the loss

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class PlainAttention(nn.Module):
    """Causal self-attention over one fused projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = (part.view(B, T, self.heads, -1).transpose(1, 2) for part in self.qkv(x).split(D, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(B, T, D))


class PlainBlock(nn.Module):
    """Pre-norm attention and a GELU MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), PlainAttention(width, heads)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGPT(nn.Module):
    """GPT-2 with a tied head, its loss over all logits at once."""

    def __init__(self, vocab: int, context: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 / ((2 * layers) ** 0.5 if name.endswith("out.weight") else 1.0))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def _stepper(model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """One step as nanoGPT does it: autocast, backward, clip at 1, AdamW with its two groups, fused on a GPU."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=DEVICE.type == "cuda")

    def step(tokens: Tensor, targets: Tensor) -> float:
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            loss = loss_of(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def nanogpt(vocab: int, context: int, layers: int, width: int, heads: int) -> Step:
    """nanoGPT's model and loop; compiled on a GPU, as it does by default."""
    model = PlainGPT(vocab, context, layers, width, heads).to(DEVICE)
    return _stepper(model, torch.compile(model) if DEVICE.type == "cuda" else model)


def hugging_face(vocab: int, context: int, layers: int, width: int, heads: int) -> Step:
    """`transformers.GPT2LMHeadModel` in the same loop."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": vocab, "n_positions": context, "n_layer": layers, "n_embd": width, "n_head": heads}
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(**sizes, **off, use_cache=False)).train().to(DEVICE)

    def loss_of(tokens: Tensor, targets: Tensor) -> Tensor:
        logits = model(input_ids=tokens).logits
        return F.cross_entropy(logits.view(-1, vocab).float(), targets.reshape(-1))

    return _stepper(model, loss_of)
