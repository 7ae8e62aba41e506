"""Settings of plain Python: what is misspelt or does not fit is refused before anything is trained."""

import pytest
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone
from clipreid_lib.method.augment import enlarge
from clipreid_lib.method.encoder_finetune import EncoderSettings, finetune
from clipreid_lib.method.loss_terms import AnchorLoss, IdentityLoss, Term
from clipreid_lib.method.prompt_learning import PromptSettings, learn_prompts

LABELS = ["a", "a", "b", "b"]
TERMS = {"identity": Term(1.0, IdentityLoss())}


@pytest.mark.parametrize(
    ("settings", "key", "value", "allowed"),
    [
        (EncoderSettings, "schedule", "clip_hand_id", "clip_reid, clip_handid"),
        (EncoderSettings, "padding", "blck", "edge, black, enlarge"),
        (EncoderSettings, "erasing", "x", "mean, noise, none"),
        (EncoderSettings, "compose", "wrd", "none, word, fixed"),
        (EncoderSettings, "sampler", "foo", "every_image, published, shuffled"),
        (EncoderSettings, "precision", "half", "auto, float32, tf32, bf16, fp16"),
        (EncoderSettings, "epochs", 0, "a whole number from 1"),
        (EncoderSettings, "batch_size", 8.0, "a whole number from 1"),
        (EncoderSettings, "lr", float("nan"), "a number above 0"),
        (PromptSettings, "form", "shred", "learned, shared, fixed"),
        (PromptSettings, "loss", "x", "supervised, infonce"),
        (PromptSettings, "logits", "x", "cosine, dot"),
        (PromptSettings, "epochs", True, "a whole number from 1"),
        (PromptSettings, "prompt_dim", 0, "a whole number from 1"),
    ],
)
def test_a_setting_that_is_not_allowed_names_what_is(settings, key, value, allowed):
    with pytest.raises(UserError) as refused:
        settings(**{key: value})
    assert str(refused.value) == f"{key}: {value!r} is not allowed; use {allowed}"


def test_the_loss_against_anchors_takes_the_same_words():
    with pytest.raises(UserError, match=r"^logits: 'dott' is not allowed; use cosine, dot$"):
        AnchorLoss(torch.zeros(2, 8), 1.0, logits="dott")


@pytest.fixture(scope="module")
def clip():
    return backbone.load("embedded")


@pytest.mark.parametrize("number", [torch.float32, torch.uint8])
def test_images_of_another_type_or_size_are_refused_by_both_stages(clip, number):
    height, width = clip.image_size
    side = height if number is torch.float32 else height + 8
    images = torch.zeros(4, 3, side, side, dtype=number)
    told = rf"images: \(N, 3, {side}, {side}\) of {str(number)[6:]} .* \(N, 3, {height}, {width}\) uint8$"
    with pytest.raises(ValueError, match=told):
        learn_prompts(clip, images, LABELS)
    with pytest.raises(ValueError, match=told):
        finetune(clip, images, LABELS, TERMS)


def test_images_to_be_cropped_must_be_enlarged(clip):
    settings = EncoderSettings(epochs=1, batch_size=4, images_per_identity=2, padding="enlarge")
    height, width = enlarge(clip.image_size)
    with pytest.raises(ValueError, match=rf"\(N, 3, {height}, {width}\) uint8$"):
        finetune(clip, torch.zeros(4, 3, *clip.image_size, dtype=torch.uint8), LABELS, TERMS, settings)
    images = torch.zeros(4, 3, height, width, dtype=torch.uint8)
    assert len(finetune(clip, images, LABELS, TERMS, settings, watch=lambda line: None)[1]) == 1
