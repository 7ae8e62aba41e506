import pandas as pd
import pytest
import torch
from small_runs import learn

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone
from clipreid_lib.method.prompt_bank import PromptBank, describe_people
from clipreid_lib.runs import loading, training


@pytest.fixture(scope="module")
def clip():
    return backbone.load("embedded")


def test_words_say_what_most_of_a_persons_images_say():
    table = pd.DataFrame(
        {
            "identity": [1, 1, 1, 2],
            "aspect": ["dorsal_r", "dorsal_r", "dorsal_r", "palmar_l"],
            "skin_color": ["fair", "dark", "fair", "medium"],
            "gender": ["male"] * 3 + ["female"],
            "nail_polish": [True, True, False, False],
        }
    )
    assert describe_people(table, [2, 1], "mine") == [
        "medium skinned female palmar left hand.",
        "fair skinned male dorsal right hand with nail polish.",
    ]
    with pytest.raises(UserError, match="prompt_form: mine says nothing about its people; use learned"):
        describe_people(table[["identity", "aspect"]], [1, 2], "mine")


def test_fixed_prompts_are_their_sentences(clip):
    words = ["fair skinned male hand.", "dark skinned female hand with nail polish."]
    bank = PromptBank(clip, [1, 2], form="fixed", words=words)
    assert list(bank.parameters()) == []
    expected = clip.encode_texts([f"a photo of a {text}" for text in words])
    torch.testing.assert_close(bank.anchors(clip), expected, atol=1e-5, rtol=1e-5)


def test_shared_tokens_serve_all_and_attributes_tell_people_apart(clip):
    torch.manual_seed(0)
    bank = PromptBank(
        clip, [1, 2, 3], 4, None, "shared", ["fair skinned hand.", "dark skinned hand.", "dark skinned hand."]
    )
    assert bank.codes.shape == (1, 4, clip.text_width)
    anchors = bank.anchors(clip)
    torch.testing.assert_close(anchors[1], anchors[2])  # who has the same attributes has the same sentence
    assert (anchors[0] - anchors[1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="says something of each of 3"):
        PromptBank(clip, [1, 2, 3], form="shared", words=["hand."])


# A fixed sentence learns nothing, so one loss stands for all.
LOSSES = (("supervised", "cosine"), ("supervised", "dot"), ("infonce", "cosine"))
LEARNT = [(form, loss) for form in ("learned", "shared") for loss in LOSSES]


@pytest.mark.parametrize(("form", "loss"), [*LEARNT, ("fixed", LOSSES[0])])
def test_every_form_and_loss_learns_and_comes_back(open_run, tmp_path, form, loss):
    both = dict(zip(("prompt_loss", "prompt_logits"), loss, strict=True))
    run = open_run(fresh=tmp_path, variant="clipid", prompt_form=form, prompt_epochs=4, **both)
    clip, bank, log = learn(run)
    if form == "fixed":
        assert log["epoch"].tolist() == [0] and log["text_accuracy"].between(0, 1).all()
    else:
        # three or four people share few attributes, so single epochs of so small a set go up and down
        assert log["loss"].iloc[1:].min() < log["loss"].iloc[0]
    again = training.load_prompts(run, loading.load_backbone(run))
    torch.testing.assert_close(again.anchors(clip), bank.anchors(clip))
    assert again.texts == bank.texts and not any(p.requires_grad for p in again.parameters())
