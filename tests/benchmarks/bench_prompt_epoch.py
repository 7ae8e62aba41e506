"""An epoch of prompt learning (stage 2a) on ViT-B-16's text tower against the plain computation.

Plain: every image of a batch has its whole sentence of 77 tokens encoded, as the published code does. Ours: each
distinct identity of the batch once, at the sentence's live length, its fixed beginning computed once for all.
"""

import torch
from rows import Row, in_turn

from clipreid_lib.clip import backbone
from clipreid_lib.method.contrastive_loss import supervised_contrastive
from clipreid_lib.method.prompt_bank import PromptBank

AIM = 8  # times as fast
PEOPLE, IMAGES, BATCH = 72, 890, 64  # 11k Hands, dorsal right
BATCHES = 3  # of the epoch's 14, timed in turn: the plain ones take seconds each


def plain_features(bank: PromptBank, clip, rows: torch.Tensor) -> torch.Tensor:
    """Encode every row's sentence on its own, padded to the context length."""
    sentence = bank.sentences
    whole = clip.tokenizer(sentence.texts)  # (1, 77)
    words = clip.embed_tokens(whole).expand(len(rows), -1, -1)
    first, slots = int(sentence.places[0, 0]), sentence.slots
    words = torch.cat([words[:, :first], bank.learned_tokens(rows), words[:, first + slots :]], dim=1)
    return clip.text_features(words, whole.expand(len(rows), -1))


def step(bank: PromptBank, clip, image: torch.Tensor, rows: torch.Tensor, plain: bool) -> tuple[float, torch.Tensor]:
    """Do one step's forward and backward pass; return the loss and the gradient of the batch's prompts."""
    if plain:
        text = plain_features(bank, clip, rows)
    else:
        distinct, place = rows.unique(return_inverse=True)
        text = bank.text_features(clip, distinct)[place]
    loss = supervised_contrastive(image, text, rows, rows) + supervised_contrastive(text, image, rows, rows)
    bank.zero_grad()
    loss.backward()
    return loss.item(), bank.codes.grad


def rows() -> list[Row]:
    """Time some batches both ways; seconds are those of a whole epoch."""
    torch.manual_seed(0)
    clip = backbone.load("vitb16", "random")
    bank = PromptBank(clip, list(range(PEOPLE)))
    images, people = torch.randn(IMAGES, clip.clip.visual.output_dim), torch.randint(0, PEOPLE, (IMAGES,))
    batches = torch.randperm(IMAGES).split(BATCH)

    def way(plain: bool):
        return lambda number: step(bank, clip, images[batches[number]], people[batches[number]], plain)

    way(plain=False)(BATCHES)  # warm up
    pairs, (before, after) = in_turn(way(plain=True), way(plain=False), BATCHES)
    assert abs(before[0] - after[0]) < 1e-4 * abs(before[0])
    torch.testing.assert_close(before[1], after[1], rtol=1e-3, atol=1e-3 * float(before[1].abs().max()))
    epoch = IMAGES / BATCH
    return [
        Row(
            "prompt epoch, ViT-B-16",
            "77 tokens for every image",
            "live tokens for every person",
            [(before * epoch, after * epoch) for before, after in pairs],
            AIM,
            note=f"{BATCHES} batches of {BATCH}, reckoned up to {IMAGES} images; losses and gradients equal",
        )
    ]
