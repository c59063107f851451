"""A small language model and text for it, both made here: nothing is downloaded."""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

CHARACTERS = 128
LENGTH = 48
WIDTH = 64


class Text(Dataset):
    """Sums written out, such as "12+34=46;": regular enough that a small model learns from it at once."""

    def __init__(self, pieces: int, seed: int = 0) -> None:
        dice = torch.Generator().manual_seed(seed)
        pairs = torch.randint(0, 100, (pieces, 8, 2), generator=dice).tolist()
        lines = ["".join(f"{a}+{b}={a + b};" for a, b in row).ljust(LENGTH + 1)[: LENGTH + 1] for row in pairs]
        self.pieces = torch.tensor([list(line.encode("ascii")) for line in lines])

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pieces[place, :-1], self.pieces[place, 1:]


class Feed(nn.Module):
    """The two layers behind the attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(functional.gelu(self.up(x)))


class Attention(nn.Module):
    """Causal attention. How many heads there are follows from the width of q, which tensor parallelism divides."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            part(x).view(batch, length, -1, self.head_width).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


class Block(nn.Module):
    """One layer."""

    def __init__(self, width: int, heads: int, feed: nn.Module | None = None) -> None:
        super().__init__()
        self.before_attention, self.before_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed = feed or Feed(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.before_attention(x))
        return x + self.feed(self.before_feed(x))


class First(nn.Module):
    """Characters and places as vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(CHARACTERS, width)
        self.places = nn.Embedding(LENGTH, width)

    def forward(self, characters: torch.Tensor) -> torch.Tensor:
        return self.characters(characters) + self.places(torch.arange(characters.shape[1]))


class Last(nn.Module):
    """Vectors as what comes next."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, CHARACTERS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(x))


def layers(width: int = WIDTH, heads: int = 4, depth: int = 4) -> list[nn.Module]:
    """The model in pieces, the same on every rank."""
    torch.manual_seed(1)
    return [First(width), *(Block(width, heads) for _ in range(depth)), Last(width)]


def loss_of(said: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The usual one."""
    return functional.cross_entropy(said.flatten(0, 1), wanted.flatten())
