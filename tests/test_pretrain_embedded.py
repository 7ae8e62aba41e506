"""The embedded CLIP: its vocabulary, its captions, its batches, the shipped files, and a tiny run of its recipe."""

import gzip
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from clipreid_lib.base import import_fixes
from clipreid_lib.base.errors import UserError
from clipreid_lib.clip.backbone import SHIPPED, Backbone
from clipreid_lib.clip.encode import encode
from clipreid_lib.embedded import (
    captions,
    pretrain_embedded,
    spoiled_pictures,
    synthetic_hands,
    training_batches,
    training_losses,
    training_people,
    unseen_people,
)
from clipreid_lib.embedded.hand_people import Person
from clipreid_lib.embedded.hand_sessions import set_up_shot

import open_clip  # isort: skip

FACTS = {aspect: captions.state_facts(aspect, "very fair", True) for aspect in synthetic_hands.ASPECTS}
SEED = 20269999  # of people neither trained, validated nor reported on


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
    assert min(value for name, value in report["zero_shot_unseen_people"].items() if "(" in name) > 0.85
    curve = pd.read_csv(SHIPPED / "loss_curve.csv")
    assert curve["loss"].iloc[-1] < 0.7 * curve["loss"].iloc[0]


def test_our_words_split_as_in_full_clip(tmp_path):
    captions.write_merges(tmp_path / "merges.txt.gz")
    full = open_clip.tokenizer.SimpleTokenizer()
    ours = open_clip.tokenizer.SimpleTokenizer(bpe_path=str(tmp_path / "merges.txt.gz"))
    texts = [
        " ".join(captions.collect_words()),
        "a photo of a X X X X hand.",
        "Ada Moreno's left hand, deep lines.",
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


def test_vocabulary_is_the_shipped_one(tmp_path):
    captions.write_merges(tmp_path / "merges.txt.gz")
    ours, shipped = (gzip.decompress((place / "merges.txt.gz").read_bytes()) for place in (tmp_path, SHIPPED))
    assert ours == shipped


def test_every_name_is_a_token_a_word_of_two_words_and_told_once(tmp_path):
    given, family = {*captions.WOMEN, *captions.MEN}, set(captions.FAMILIES)
    names = captions.FACTS["name"]
    assert len(set(names)) == len(names) == len(given) * len(family) > 10_000
    assert not (given | family) & {word.title() for word in captions.EXTRA_WORDS} and not given & family
    assert "Ada" in given and "Moreno" in family
    full = open_clip.tokenizer.SimpleTokenizer()
    assert all(len(full.encode(word)) == 1 for word in given | family)


def test_people_have_names_of_their_own_that_go_with_their_gender():
    people = [Person(number, SEED) for number in range(300)]
    names = [captions.FACTS["name"][captions.name_person(person)] for person in people]
    assert len(set(names)) == 300
    for person, name in zip(people, names, strict=True):
        assert name.split()[0] in (captions.WOMEN if person.gender == "female" else captions.MEN)
    each = len(captions.WOMEN) * len(captions.FAMILIES)
    assert math.gcd(4801, each) == 1 and each >= pretrain_embedded.Recipe().people  # so nobody shares a name


@pytest.mark.parametrize("aspect", synthetic_hands.ASPECTS)
def test_captions_state_only_what_is_known(aspect):
    facts, rng = FACTS[aspect].copy(), np.random.default_rng(0)
    facts[captions.NAMES.index("shape")] = 1
    facts[captions.NAME] = captions.FACTS["name"].index("Ada Moreno")
    view, side = aspect.split()
    thumb = {"dorsal right": "left", "dorsal left": "right", "palmar right": "right", "palmar left": "left"}[aspect]
    wrong_thumb = {"left": "right", "right": "left"}[thumb]
    other = {"right": "left", "left": "right"}[side]
    sentences, stated = captions.write_captions(np.stack([facts] * 400), rng)
    true = sentences[::2]
    assert len({text.rstrip(".") for text in true}) > 150  # varied
    assert captions.check_truth(facts[None], stated[::2]).all()
    assert not captions.check_truth(facts[None], stated[1::2]).any()  # every second one is the false twin
    for text in true:
        assert f"{other} hand" not in text and f"thumb pointing {wrong_thumb}" not in text
        assert f"thumb on the {wrong_thumb}" not in text
        assert ("palm" not in text) if view == "dorsal" else ("back" not in text and "dorsal" not in text)
        assert "bare" not in text and "unpainted" not in text and "no nail" not in text and "slim" not in text
        assert " dark " not in text and " medium " not in text and text.count("fair") == text.count("very fair")
        assert not {"knuckles", "lines"} & set(text.rstrip(".").replace(",", "").split())  # not known
        if view == "palmar":  # nails cannot be seen
            assert "nail" not in text
    assert sum("Ada Moreno" in text for text in true) > 60
    assert all("Ada Moreno" in text for text, said in zip(true, stated[::2], strict=True) if said[captions.NAME] >= 0)
    plain = "back" if view == "dorsal" else "palm"
    assert any(f"the {plain} of the {side} hand of Ada Moreno" in text for text in true)
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    assert max(len(tokenizer.encode(text)) for text in sentences) <= pretrain_embedded.TEXT["context_length"] - 2


def test_drawn_hands_say_what_the_drawing_knows():
    for number in range(40):
        person = Person(number, SEED, wide=True)
        hand, _ = set_up_shot(person, "dorsal right", 0, 0, 1.0, (160, 120), SEED)
        back = dict(zip(captions.NAMES, captions.read_hand(hand, "dorsal right"), strict=True))
        palm, _ = set_up_shot(person, "palmar left", 0, 0, 1.0, (160, 120), SEED)
        front = dict(zip(captions.NAMES, captions.read_hand(palm, "palmar left"), strict=True))
        assert front["knuckles"] == back["lines"] == front["polish"] == -1
        assert [front[name] == back[name] for name in ("shape", "skin", "name")] == [True] * 3
        assert (back["knuckles"] == 1) == (person.knuckle > 0.160) and (front["lines"] == 0) == (person.lines < 0.28)
        slenderness = person.lengths[1:].mean() / (person.palm * person.widths[1:].mean())
        assert (back["shape"] == 0) == (slenderness > 1 / 0.0527)
        assert captions.FACTS["name"][back["name"]].split()[0] in captions.WOMEN + captions.MEN


def test_twin_sentences_differ_in_one_fact_only():
    facts = FACTS["dorsal right"].copy()
    facts[captions.NAME] = 7
    sentences, stated = captions.write_captions(np.stack([facts] * 50), np.random.default_rng(2))
    assert ((stated[::2] != stated[1::2]).sum(axis=1) == 1).all()
    for true, false in zip(sentences[::2], sentences[1::2], strict=True):
        assert true != false and abs(len(true.split()) - len(false.split())) <= 4


def test_mirrored_picture_gets_the_other_side_and_thumb():
    right, left = FACTS["dorsal right"], FACTS["dorsal left"]
    assert (captions.mirror(right) == left).all() and (captions.mirror(captions.mirror(right)) == right).all()
    stated = np.full(len(captions.NAMES), -1)
    stated[captions.SIDE] = right[captions.SIDE]
    assert "right hand" in captions.write_sentence(stated, np.random.default_rng(1))
    assert captions.check_truth(np.stack([right, captions.mirror(right)]), stated[None])[:, 0].tolist() == [True, False]


@pytest.mark.parametrize("how, agreement", [("shrink", 1.0), ("spoil", 0.85)])  # a thing in the way may outweigh it
def test_pictures_are_mirrored_where_they_shall_be(how, agreement):
    pictures = torch.full((64, 3, 112, 112), 230, dtype=torch.uint8)
    pictures[:, :, 30:80, 12:40] = 20  # something dark on the left
    mirrored = torch.arange(64) % 3 == 0
    if how == "shrink":
        images = spoiled_pictures.shrink(pictures, mirrored, 32)
    else:
        images = spoiled_pictures.spoil(pictures, torch.arange(64), mirrored, 32, torch.Generator().manual_seed(3))
    assert images.shape == (64, 3, 32, 32)
    assert images.min() >= -1e-5 and images.max() <= 1 + 1e-5
    dark_right = images[..., 16:].mean((1, 2, 3)) < images[..., :16].mean((1, 2, 3))
    assert (dark_right == mirrored).float().mean() >= agreement


def test_pictures_of_a_studio_are_spoiled_alike():
    pictures = torch.full((256, 3, 112, 112), 128, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(1)
    studios = torch.arange(128).repeat_interleave(2)
    images = spoiled_pictures.spoil(pictures, studios, torch.zeros(256, dtype=torch.bool), 24, generator)
    colours = images.flatten(2).median(dim=2).values  # (256, 3), of the empty frame: what light and camera make of it
    within = (colours[::2] - colours[1::2]).abs().mean()
    across = (colours[:-2:2] - colours[2::2]).abs().mean()
    assert across > 0.03 and within < across / 5


def test_pair_loss_is_clips_own_for_one_true_sentence_each_and_zero_when_perfect():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    ours = training_losses.pair_loss(logits, torch.eye(5, dtype=torch.bool))
    labels = torch.arange(5)
    clip = (torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)) / 2
    assert torch.allclose(ours, clip)
    truth = torch.tensor([[True, True, False], [False, True, True], [False, False, False]])
    perfect = torch.where(truth, 50.0, -50.0)
    assert abs(training_losses.pair_loss(perfect, truth)) < 1e-5  # the third picture has no sentence


def test_contrast_between_pairs_of_pictures_is_simclrs():
    features = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    hands = torch.tensor([3, 9, 4, 7, 9, 4, 3, 7])
    unit, terms = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True), []
    for one in range(8):  # written out as in the paper: the partner against everything but the picture itself
        scores = {other: unit[one] @ unit[other] / training_losses.TEMPERATURE for other in range(8) if other != one}
        partner = next(other for other in scores if hands[other] == hands[one])
        terms.append(math.log(sum(math.exp(score) for score in scores.values())) - scores[partner])
    same = hands[:, None] == hands
    assert training_losses.contrast_loss(features, same, ~same).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_contrast_leaves_out_pairs_that_are_neither_alike_nor_apart():
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    alike, apart = torch.zeros(6, 6, dtype=torch.bool), torch.zeros(6, 6, dtype=torch.bool)
    alike[0, 1] = alike[1, 0] = True
    apart[0, 2] = apart[2, 0] = apart[1, 2] = apart[2, 1] = True
    loss = training_losses.contrast_loss(features, alike, apart)
    features[3:] *= -2
    assert torch.equal(loss, training_losses.contrast_loss(features, alike, apart))
    features[2] *= -1
    assert not torch.allclose(loss, training_losses.contrast_loss(features, alike, apart))


def test_coarse_loss_is_the_divergence_of_similarities_written_out():
    rng = np.random.default_rng(0)
    features, images = rng.standard_normal((5, 7)), rng.standard_normal((5, 3, 24, 24))
    coarse, chances = images.reshape(5, 3, 12, 2, 12, 2).mean((3, 5)).reshape(5, -1), []
    for each in (coarse, features):
        unit = each - each.mean(0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        weights = np.exp(unit @ unit.T / training_losses.TEMPERATURE) * (1 - np.eye(5))
        chances.append(weights / weights.sum(1, keepdims=True))
    aim, got = (each[~np.eye(5, dtype=bool)] for each in chances)
    expected = (aim * np.log(aim / got)).sum() / 5
    found = training_losses.coarse_loss(torch.tensor(features), torch.tensor(images))
    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert training_losses.coarse_loss(torch.tensor(coarse), torch.tensor(images)).item() == pytest.approx(0, abs=1e-9)


def test_balanced_features_are_one_to_two_and_sentences_notice_nothing(shipped):
    pixels = torch.randint(256, (8, 3, *shipped.image_size), dtype=torch.uint8)
    before, after = encode(shipped, pixels), encode(pretrain_embedded.balance_features(shipped, pixels), pixels)
    assert torch.equal(before.f, after.f)
    assert 2 * after.f_proj.norm(dim=1).mean().item() == pytest.approx(after.f.norm(dim=1).mean().item(), rel=1e-4)
    assert torch.cosine_similarity(before.f_proj, after.f_proj).min() > 0.9999


def test_rate_rises_stays_and_falls():
    rates = [pretrain_embedded.schedule_rate(step, 100, 2.0, 10, 0.2) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9:80] == [2.0] * 71 and rates[90] == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10]) and rates[80:] == sorted(rates[80:], reverse=True) and rates[99] > 0


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return training_people.draw_people(tmp_path_factory.mktemp("people"), 6, SEED)


def test_drawing_goes_on_where_it_stopped(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(training_people, "TOGETHER", 2)
    made, draw = [], training_people.map_people

    def stop(make, people):
        made.append(people)
        if len(made) == 2:
            raise KeyboardInterrupt
        return draw(make, people)

    monkeypatch.setattr(training_people, "map_people", stop)
    with pytest.raises(KeyboardInterrupt):
        training_people.draw_people(tmp_path, 6, SEED)
    pictures, facts = training_people.draw_people(tmp_path, 6, SEED)
    assert len(made) == 4  # two people before, four after; the interrupted ones again
    assert np.array_equal(pictures, drawn[0]) and np.array_equal(facts, drawn[1])
    made.clear()
    assert training_people.draw_people(tmp_path, 6, SEED)[0].shape == pictures.shape and not made
    with pytest.raises(UserError, match="other people"):
        training_people.draw_people(tmp_path, 6, SEED + 1)


def test_batches_hold_all_pictures_of_a_hand_and_judge_every_sentence(drawn):
    pictures, facts = drawn
    batches = training_batches.Batches(pictures, facts, 8, 0.5, 32, 5)
    batch, again, other = batches[7], batches[7], batches[8]
    assert batch.images.shape == (32, 3, 32, 32) and batch.images.dtype == torch.uint8 and len(batch.sentences) == 16
    assert torch.equal(batch.images, again.images) and batch.sentences == again.sentences
    assert not torch.equal(batch.images, other.images)
    assert batch.hands.unique(return_counts=True)[1].tolist() == [4] * 8
    assert batch.bursts.unique_consecutive(return_counts=True)[1].tolist() == [2, 1, 1] * 8  # two shots of one session
    assert (batch.hands.reshape(8, 4)[:, 0] % 4).bincount().max() >= 4  # half are of one aspect
    for place, sentence in enumerate(batch.sentences):  # whoever is named has the hands of that number
        names = [name for name in captions.FACTS["name"] if name in sentence]
        if names:
            own = [p for p in range(6) if captions.FACTS["name"][facts[p, 0, 0, captions.NAME]] == names[0]]
            assert {hand.item() // 4 for hand in batch.hands[batch.truth[:, place]]} <= set(own)
    assert (batch.truth[:, ::2].any(0)).all() and batch.truth.any(1).float().mean() > 0.8


def test_rare_hands_come_more_often():
    facts = np.zeros((100, 4, len(captions.NAMES)), dtype=int)
    facts[:10, :, captions.POLISH] = 1
    assert np.allclose(training_batches.weigh_hands(facts, 0.0), 0.01)
    assert training_batches.weigh_hands(facts, 1.0)[:10].sum() == pytest.approx(0.5)


def test_shipped_weights_tell_back_from_palm_and_left_from_right(shipped):
    pictures, facts = [], []
    for number in range(12):
        for aspect in synthetic_hands.ASPECTS:
            picture, row = synthetic_hands.draw(Person(number, SEED), aspect, 0, 0, size=(160, 120), seed=SEED)
            pictures.append(training_people.squash(picture, shipped.image_size[0]))
            facts.append(captions.state_facts(aspect, row["skinColor"], row["nailPolish"]))
    pictures = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    table = unseen_people.zero_shot(shipped, encode(shipped, pictures).f_proj, np.stack(facts))
    assert table["view (2)"] > 0.85
    assert table["aspect (4)"] > 0.7  # chance 0.25


def test_reading_tears_left_and_right_apart(tmp_path):
    torch.manual_seed(0)
    backbone = pretrain_embedded.build(tmp_path)
    open_clip.add_model_config(SHIPPED / "embedded_clip.json")
    losses = pretrain_embedded.learn_to_read(backbone, np.stack(list(FACTS.values())), 16, 0)
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


def test_retrieval_score_on_a_hand_worked_case():
    features = torch.eye(3).repeat_interleave(2, dim=0)  # each person is one direction: always found
    assert unseen_people.score_one_shot(features, np.array([0, 0, 1, 1, 2, 2])) == 1.0
    assert unseen_people.score_one_shot(features[[0, 2, 2, 4, 4, 0]], np.array([0, 0, 1, 1, 2, 2])) < 0.5


@pytest.mark.training
@pytest.mark.heavy
def test_tiny_run_writes_every_promised_file_and_goes_on_to_the_same_end(tmp_path, monkeypatch):
    for use in unseen_people.PEOPLE:
        monkeypatch.setitem(unseen_people.PEOPLE, use, 2)
    monkeypatch.setattr(pretrain_embedded, "VISION", {**pretrain_embedded.VISION, "width": 8, "layers": [1, 1, 1, 1]})
    options = "--people 3 --steps 4 --hands 4 --reading-steps 2 --minutes 0 --workers 0".split()
    places = ["--drawn", str(tmp_path / "drawn")]
    through, parts = tmp_path / "through", tmp_path / "parts"
    try:
        pretrain_embedded.main([*options, *places, "--out", str(through)])
        take, steps = pretrain_embedded.Run.take_step, []

        def stop(run, batch):
            steps.append(run.step)
            if len(steps) == 3:
                raise KeyboardInterrupt
            return take(run, batch)

        monkeypatch.setattr(pretrain_embedded.Run, "take_step", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain_embedded.main([*options, *places, "--out", str(parts)])
        pretrain_embedded.main([*options, *places, "--out", str(parts)])
    finally:
        open_clip.add_model_config(SHIPPED / "embedded_clip.json")  # the run registered its own under this name
    assert steps == [0, 1, 2, 2, 3]
    assert {path.name for path in through.iterdir()} == {
        "embedded_clip.json",
        "merges.txt.gz",
        "embedded_clip.safetensors",
        "report.json",
        "loss_curve.csv",
        "state.pt",
    }
    assert (through / "embedded_clip.safetensors").read_bytes() == (parts / "embedded_clip.safetensors").read_bytes()
    report = json.loads((through / "report.json").read_text())
    assert report["recipe"]["steps"] == 4 and "aspect (4)" in report["zero_shot_unseen_people"]
    assert report["names_training_people"]["people"] == 2
    curve = pd.read_csv(through / "loss_curve.csv")
    assert curve["step"].tolist() == [1, 2, 3, 4] and np.isfinite(curve).all(axis=None)
