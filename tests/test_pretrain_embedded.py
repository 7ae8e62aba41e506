"""The embedded CLIP: its vocabulary, its captions, the shipped files, and a tiny run of its recipe."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import torch

from clipreid_lib.base import import_fixes
from clipreid_lib.clip.backbone import SHIPPED, Backbone
from clipreid_lib.embedded import (
    captions,
    pretrain_embedded,
    spoiled_pictures,
    synthetic_hands,
    unseen_people,
)

import open_clip  # isort: skip

ROW = {
    "id": "0000007",
    "age": 30,
    "gender": "female",
    "skinColor": "very fair",
    "accessories": 1,
    "nailPolish": 1,
    "aspectOfHand": "dorsal right",
}


@pytest.fixture(scope="module")
def shipped():
    """The model exactly as any user of open_clip would load it."""
    assert import_fixes is not None
    open_clip.add_model_config(SHIPPED / "embedded_clip.json")
    model = open_clip.create_model("embedded_clip", pretrained=str(SHIPPED / "embedded_clip.safetensors"))
    tokenizer = open_clip.get_tokenizer("embedded_clip", bpe_path=str(SHIPPED / "merges.txt.gz"))
    return Backbone(model.eval(), tokenizer, "embedded", "shipped")


def test_shipped_model_loads_through_open_clip_in_float32(shipped):
    assert {p.dtype for p in shipped.clip.parameters()} == {torch.float32}
    with torch.no_grad():
        image = shipped.clip.encode_image(torch.zeros(2, 3, *shipped.image_size))
        text = shipped.clip.encode_text(shipped.tokenizer(["a photo of the back of a right hand", "a hand"]))
    assert image.shape == text.shape == (2, shipped.clip.visual.output_dim)
    assert torch.isfinite(image).all() and torch.isfinite(text).all()


def test_shipped_files_are_complete_and_small():
    names = {
        "embedded_clip.json",
        "merges.txt.gz",
        "embedded_clip.safetensors",
        "report.json",
        "loss_curve.csv",
    }
    assert names <= {path.name for path in SHIPPED.iterdir()}
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 10e6


def test_report_tells_how_the_shipped_weights_were_made():
    report = json.loads((SHIPPED / "report.json").read_text())
    assert report["bytes"]["embedded_clip.safetensors"] == (SHIPPED / "embedded_clip.safetensors").stat().st_size
    assert report["recipe"]["seed"] >= 100  # the demo data set draws its people from seeds below
    found = report["rank1_unseen_people"]
    assert found["embedded clip"] > max(found["grey pixels 32x32"], found["untrained network"])
    curve = pd.read_csv(SHIPPED / "loss_curve.csv")
    assert curve["loss"].iloc[-1] < 0.7 * curve["loss"].iloc[0]


def test_our_words_split_as_in_full_clip(shipped):
    full, ours = open_clip.tokenizer.SimpleTokenizer(), shipped.tokenizer
    texts = [
        " ".join(captions.collect_words()),
        "a photo of a X X X X hand.",
        "a woman's left hand, no ring.",
    ]
    texts += [p for values in captions.PROMPTS.values() for prompts in values.values() for p in prompts]
    for text in texts:
        assert [ours.decoder[i] for i in ours.encode(text)] == [full.decoder[i] for i in full.encode(text)]


def test_end_of_text_is_the_largest_id_and_foreign_words_survive(shipped):
    ours = shipped.tokenizer
    assert ours.eot_token_id == ours.vocab_size - 1 == shipped.text.token_embedding.num_embeddings - 1
    tokens = ours(["zebra Übung 漢字 42", ""])
    assert tokens.argmax(dim=1).tolist() == [(row != 0).sum().item() - 1 for row in tokens]
    assert ours.decode(ours.encode("zebra übung 漢字")).strip() == "zebra übung 漢字"


def test_vocabulary_file_is_reproducible(tmp_path):
    captions.write_merges(tmp_path / "merges.txt.gz")
    assert gzip.decompress((tmp_path / "merges.txt.gz").read_bytes()) == gzip.decompress(
        (SHIPPED / "merges.txt.gz").read_bytes()
    )


@pytest.mark.parametrize("aspect", synthetic_hands.ASPECTS)
def test_captions_state_only_what_the_row_says(aspect):
    facts, rng = captions.read_facts({**ROW, "aspectOfHand": aspect}), np.random.default_rng(0)
    view, side = aspect.split()
    thumb = {"dorsal right": "left", "dorsal left": "right", "palmar right": "right", "palmar left": "left"}[aspect]
    wrong_thumb = {"left": "right", "right": "left"}[thumb]
    other = {"right": "left", "left": "right"}[side]
    sentences, stated = captions.write_captions(np.stack([facts] * 400), rng)
    assert len({text.rstrip(".") for text in sentences[::2]}) > 150  # varied
    assert captions.check_truth(facts[None], stated[::2]).all()
    assert not captions.check_truth(facts[None], stated[1::2]).any()  # every second one is the false twin
    for text in sentences[::2]:
        assert f"{other} hand" not in text and f"thumb pointing {wrong_thumb}" not in text
        assert f"thumb on the {wrong_thumb}" not in text
        assert ("palm" not in text) if view == "dorsal" else ("back" not in text and "dorsal" not in text)
        assert " man" not in text and "no ring" not in text and "bare" not in text and "unpainted" not in text
        assert " dark " not in text and " medium " not in text and text.count("fair") == text.count("very fair")
        if view == "palmar":  # nails cannot be seen
            assert "nail" not in text


def test_twin_sentences_differ_in_one_fact_only():
    facts = captions.read_facts(ROW)
    sentences, stated = captions.write_captions(np.stack([facts] * 50), np.random.default_rng(2))
    assert ((stated[::2] != stated[1::2]).sum(axis=1) == 1).all()
    for true, false in zip(sentences[::2], sentences[1::2], strict=True):
        assert true != false and abs(len(true.split()) - len(false.split())) <= 4


def test_mirrored_picture_gets_the_other_side_and_thumb():
    right, left = (captions.read_facts({**ROW, "aspectOfHand": f"dorsal {side}"}) for side in ("right", "left"))
    assert (captions.mirror(right) == left).all() and (captions.mirror(captions.mirror(right)) == right).all()
    stated = np.full(7, -1)
    stated[captions.SIDE] = right[captions.SIDE]
    assert "right hand" in captions.write_sentence(stated, np.random.default_rng(1))
    assert captions.check_truth(np.stack([right, captions.mirror(right)]), stated[None])[:, 0].tolist() == [True, False]


def test_spoiling_really_mirrors_what_it_says_it_mirrors():
    pictures = torch.full((64, 3, 112, 112), 230, dtype=torch.uint8)
    pictures[:, :, 30:80, 12:40] = 20  # something dark on the left
    for share, agreement in ((0.0, 1.0), (1.0, 0.85)):  # a rectangle in the way may outweigh it
        images, mirrored = spoiled_pictures.spoil(pictures, 32, torch.Generator().manual_seed(3), share)
        assert images.shape == (64, 3, 32, 32)
        assert images.min() >= -1e-5 and images.max() <= 1 + 1e-5
        dark_right = images[..., 16:].mean((1, 2, 3)) < images[..., :16].mean((1, 2, 3))
        assert 10 < mirrored.sum() < 54
        assert (dark_right == mirrored).float().mean() >= agreement


def test_caption_loss_is_clips_own_for_one_true_sentence_each_and_zero_when_perfect():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    ours = pretrain_embedded.caption_loss(logits, torch.eye(5, dtype=torch.bool))
    labels = torch.arange(5)
    clip = (torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)) / 2
    assert torch.allclose(ours, clip)
    truth = torch.tensor([[True, True, False], [False, True, True], [False, False, False]])
    perfect = torch.where(truth, 50.0, -50.0)
    assert abs(pretrain_embedded.caption_loss(perfect, truth)) < 1e-5  # the third picture has no sentence


def test_shipped_weights_tell_back_from_palm_and_left_from_right(shipped):
    pictures, rows = [], []
    for number in range(12):
        person = synthetic_hands.Person(number, 20269999)  # neither trained, validated nor reported on
        for aspect in synthetic_hands.ASPECTS:
            picture, row = synthetic_hands.draw(person, aspect, 0, 0, size=(160, 120), seed=20269999)
            pictures.append(spoiled_pictures.squash(picture, shipped.image_size[0]))
            rows.append(row)
    pictures = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    table = unseen_people.zero_shot(shipped, pictures, pd.DataFrame(rows))
    assert table["view (2)"] > 0.85
    assert table["aspect (4)"] > 0.7  # chance 0.25


def test_reading_tears_left_and_right_apart(tmp_path):
    torch.manual_seed(0)
    backbone = pretrain_embedded.build(tmp_path)
    open_clip.add_model_config(SHIPPED / "embedded_clip.json")
    rows = [{**ROW, "aspectOfHand": aspect} for aspect in synthetic_hands.ASPECTS]
    losses = pretrain_embedded.learn_to_read(backbone, np.stack([captions.read_facts(row) for row in rows]), 16, 0)
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


def test_retrieval_score_on_a_hand_worked_case():
    features = torch.eye(3).repeat_interleave(2, dim=0)  # each person is one direction: always found
    assert unseen_people.score_one_shot(features, np.array([0, 0, 1, 1, 2, 2])) == 1.0
    assert unseen_people.score_one_shot(features[[0, 2, 2, 4, 4, 0]], np.array([0, 0, 1, 1, 2, 2])) < 0.5


@pytest.mark.training
def test_tiny_run_writes_every_promised_file(tmp_path, monkeypatch):
    for use in unseen_people.PEOPLE:
        monkeypatch.setitem(unseen_people.PEOPLE, use, 2)
    monkeypatch.setattr(pretrain_embedded, "WATCHED", 2)
    threads = torch.get_num_threads()
    try:
        options = "--people 3 --shots 1 --steps 2 --batch 6 --described 4 --reading-steps 2"
        out = tmp_path / "out"
        pretrain_embedded.main([*options.split(), "--out", str(out)])
        pretrain_embedded.main([*options.split(), "--out", str(tmp_path / "more"), "--start", str(out)])
    finally:
        torch.set_num_threads(threads)
        open_clip.add_model_config(SHIPPED / "embedded_clip.json")  # the run registered its own under this name
    names = {path.name for path in out.iterdir()}
    assert names == {
        "embedded_clip.json",
        "merges.txt.gz",
        "embedded_clip.safetensors",
        "report.json",
        "loss_curve.csv",
    }
    report = json.loads((out / "report.json").read_text())
    more = json.loads((tmp_path / "more" / "report.json").read_text())
    assert more["went_on_from"]["recipe"] == report["recipe"] and report["went_on_from"] is None
    assert report["recipe"]["steps"] == 2 and "aspect (4)" in report["zero_shot_unseen_people"]
    assert np.isfinite(pd.read_csv(out / "loss_curve.csv")["loss"]).all()
