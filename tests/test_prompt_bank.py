import pytest
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone
from clipreid_lib.method.prompt_bank import PromptBank, text_logits


@pytest.fixture(scope="module")
def clip():
    return backbone.load("embedded")


@pytest.mark.parametrize("prompt_dim", [None, 16])
def test_people_differ_and_only_the_prompts_get_gradients(clip, prompt_dim):
    torch.manual_seed(0)
    bank = PromptBank(clip, [5, 9, 12], num_prompts=3, prompt_dim=prompt_dim)
    text = bank.text_features(clip, torch.tensor([0, 1, 2]))
    assert torch.pdist(text).min() > 1e-6  # a text feature read at the wrong token would be the same for all
    text.square().sum().backward()
    assert {name for name, p in bank.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0} == (
        {"codes", "to_width.weight"} if prompt_dim else {"codes"}
    )
    assert all(p.grad is None for p in clip.parameters())


def test_a_prompt_made_of_real_words_is_that_sentence(clip):
    bank = PromptBank(clip, [1], num_prompts=4)
    word = clip.embed_tokens(torch.tensor(clip.tokenizer.encode("x")))  # (1, width)
    with torch.no_grad():
        bank.codes[:] = word
    plain = clip.encode_texts(["a photo of a x x x x hand."])
    torch.testing.assert_close(bank.text_features(clip, torch.tensor([0])), plain, atol=1e-5, rtol=1e-5)


def test_rows_are_independent_of_the_company_they_are_encoded_in(clip):
    torch.manual_seed(0)
    bank = PromptBank(clip, list(range(5)))
    together = bank.anchors(clip)
    alone = bank.text_features(clip, torch.tensor([3]))
    torch.testing.assert_close(together[3:4], alone.detach(), atol=1e-5, rtol=1e-5)


def test_codes_have_the_width_asked_for(clip):
    assert PromptBank(clip, [1, 2], 8, 16).codes.shape == (2, 8, 16)
    assert PromptBank(clip, [1, 2], 8).codes.shape == (2, 8, clip.text_width)


def test_people_read_numbered_tokens_and_the_tokeniser_reads_one_word(clip):
    bank = PromptBank(clip, [1], num_prompts=2)
    assert (bank.texts, bank.readable_texts) == (["a photo of a x x hand."], ["a photo of a [X]1 [X]2 hand."])
    fixed = PromptBank(clip, [1], form="fixed", words=["dark hand."])
    assert fixed.readable_texts == fixed.texts


def test_too_many_tokens_are_refused(clip):
    with pytest.raises(UserError, match="num_prompts: 300 tokens do not fit"):
        PromptBank(clip, [1], num_prompts=300)


def test_logits_are_cosines_times_scale_or_plain_dots():
    image, text = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
    assert text_logits(image, text, "cosine", 10.0).item() == pytest.approx(8.0)
    assert text_logits(image, text, "dot", 10.0).item() == pytest.approx(8.0 * 1.0)
