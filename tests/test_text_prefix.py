"""Live length, distinct identities and a shared beginning give what the plain computation gives."""

import pytest
import torch
from torch import nn

from clipreid_lib.clip import backbone
from clipreid_lib.clip.text_prefix import TextPrefix
from clipreid_lib.method.contrastive_loss import supervised_contrastive
from clipreid_lib.method.prompt_bank import PromptBank

import open_clip  # isort: skip


@pytest.fixture(scope="module")
def clip():
    return backbone.load("embedded")


def plainly(bank: PromptBank, clip, rows: torch.Tensor) -> torch.Tensor:
    """Every row's sentence on its own, padded to the whole context, through open_clip's own transformer."""
    sentence = bank.sentences
    whole = clip.tokenizer(sentence.texts)  # (S, context)
    words = clip.embed_tokens(whole)[rows if len(sentence.texts) > 1 else torch.zeros_like(rows)]
    first, slots = int(sentence.places[0, 0]), sentence.slots
    words = torch.cat([words[:, :first], bank.learned_tokens(rows), words[:, first + slots :]], dim=1)
    x = words + clip.text.positional_embedding
    x = clip.text.ln_final(clip.text.transformer(x, attn_mask=clip.text.attn_mask))
    ends = whole[rows if len(sentence.texts) > 1 else torch.zeros_like(rows)].argmax(dim=1)
    return x[torch.arange(len(rows)), ends] @ clip.text.text_projection


@pytest.mark.parametrize("form", ["learned", "shared"])
@pytest.mark.parametrize("prompt_dim", [None, 8])
def test_outputs_and_gradients_are_those_of_the_plain_computation(clip, form, prompt_dim):
    torch.manual_seed(0)
    words = [f"{skin} skinned hand." for skin in ("fair", "very dark", "medium", "dark")]
    bank = PromptBank(clip, [3, 5, 8, 9], 3, prompt_dim, form, words)
    image, rows = torch.randn(9, clip.clip.visual.output_dim), torch.tensor([0, 1, 1, 2, 3, 3, 3, 0, 2])
    found = {}
    for how in ("plain", "ours"):
        bank.zero_grad()
        if how == "plain":
            text = plainly(bank, clip, rows)
        else:
            distinct, place = rows.unique(return_inverse=True)
            text = bank.text_features(clip, distinct)[place]
        loss = supervised_contrastive(image, text, rows, rows) + supervised_contrastive(text, image, rows, rows)
        loss.backward()
        found[how] = [text.detach(), loss.detach(), *(p.grad.clone() for p in bank.parameters())]
    assert TextPrefix.fits(clip)
    for plain, ours in zip(found["plain"], found["ours"], strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5 * max(1.0, plain.abs().max().item()), rtol=1e-4)
    assert found["ours"][2].abs().max() > 1e-4


def test_the_beginning_is_computed_once(clip, monkeypatch):
    bank = PromptBank(clip, [1, 2])
    made = []
    start = TextPrefix.__init__
    monkeypatch.setattr(TextPrefix, "__init__", lambda self, *a: made.append(1) or start(self, *a))
    for _ in range(3):
        bank.anchors(clip)
    assert len(made) == 1


def test_a_tower_that_looks_ahead_is_run_whole(tmp_path):
    config = tmp_path / "looks_ahead.json"
    config.write_text(
        '{"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16,'
        '"patch_size": 16},'
        '"text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2,'
        '"no_causal_mask": true}, "custom_text": true}'
    )
    open_clip.add_model_config(config)
    other = backbone.load("looks_ahead", "random")
    assert not TextPrefix.fits(other)
    bank = PromptBank(other, [1, 2])
    assert bank.sentences.tokens.shape == (1, 77)  # the padding counts too, so nothing is cut off
    word = other.embed_tokens(torch.tensor(other.tokenizer.encode("x")))
    with torch.no_grad():
        bank.codes[:] = word
    expected = other.clip.encode_text(other.tokenizer(bank.texts))
    torch.testing.assert_close(bank.anchors(other)[:1], expected, atol=1e-5, rtol=1e-5)


def test_a_block_of_another_make_is_run_whole(clip, monkeypatch):
    monkeypatch.setattr(clip.text.transformer, "resblocks", nn.ModuleList([nn.Identity()]))
    assert not TextPrefix.fits(clip)
