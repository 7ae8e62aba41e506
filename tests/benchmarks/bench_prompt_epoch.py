"""An epoch of prompt learning (stage 2a) on ViT-B-16's text tower against the plain computation: `make bench`.

Plain: every image of a batch has its whole sentence of 77 tokens encoded, as the published code does. Ours: each
distinct identity of the batch once, at the sentence's live length, its fixed beginning computed once for all.
"""

import time

import torch

from clipreid_lib.clip import backbone
from clipreid_lib.contrastive_loss import supervised_contrastive
from clipreid_lib.prompt_bank import PromptBank

AIM = 8  # times
PEOPLE, IMAGES, BATCH = 72, 890, 64  # 11k Hands, dorsal right
BATCHES = 2  # of the epoch's 14, timed in turn: the plain ones take seconds each


def plain_features(bank: PromptBank, clip, rows: torch.Tensor) -> torch.Tensor:
    """Encode every row's sentence on its own, padded to the context length."""
    sentence = bank.sentences
    whole = clip.tokenizer(sentence.texts)  # (1, 77)
    words = clip.embed_tokens(whole).expand(len(rows), -1, -1)
    first, slots = sentence.first, sentence.slots
    words = torch.cat([words[:, :first], bank.learnt(rows), words[:, first + slots :]], dim=1)
    return clip.text_features(words, whole.expand(len(rows), -1))


def step(bank: PromptBank, clip, image: torch.Tensor, rows: torch.Tensor, plain: bool) -> float:
    """Time one step's forward and backward pass."""
    began = time.perf_counter()
    if plain:
        text = plain_features(bank, clip, rows)
    else:
        distinct, place = rows.unique(return_inverse=True)
        text = bank.text_features(clip, distinct)[place]
    loss = supervised_contrastive(image, text, rows, rows) + supervised_contrastive(text, image, rows, rows)
    bank.zero_grad()
    loss.backward()
    return time.perf_counter() - began


def main() -> None:
    """Print seconds per epoch and the ratio."""
    torch.manual_seed(0)
    clip = backbone.load("vitb16", "random")
    bank = PromptBank(clip, list(range(PEOPLE)))
    images, rows = torch.randn(IMAGES, clip.clip.visual.output_dim), torch.randint(0, PEOPLE, (IMAGES,))
    batches = torch.randperm(IMAGES).split(BATCH)
    step(bank, clip, images[batches[-1]], rows[batches[-1]], plain=False)  # warm up
    pairs = [
        [step(bank, clip, images[batch], rows[batch], plain) for plain in (True, False)] for batch in batches[:BATCHES]
    ]
    before, after = (sum(side) / BATCHES * IMAGES / BATCH for side in zip(*pairs, strict=True))
    print(f"stage 2a, ViT-B-16 text tower, {PEOPLE} identities, {IMAGES} cached features, {BATCHES} batches in turn\n")
    print("plain s/epoch  ours s/epoch  ratio  aim")
    print(f"{before:13.1f}  {after:12.1f}  {before / after:5.1f}  >= {AIM}")


if __name__ == "__main__":
    main()
