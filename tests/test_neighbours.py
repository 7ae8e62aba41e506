from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from small_runs import learn

from clipreid_lib.method.prompt_bank import PromptBank
from clipreid_lib.pages import neighbours
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.runs import loading


def test_no_training_image_is_its_own_neighbour(open_run):
    run = open_run(variant="classifier")
    ranking = neighbours.rank_training_images(run.manifest.train, loading.load_pretrained_encoder(run))
    train = run.manifest.train
    assert len(ranking.gallery) == len(train)
    for q in range(len(ranking.query)):
        found, late = ranking.row(q, top=len(train))
        paths = [ranking.gallery["path"].iloc[tile.position] for tile in found]
        assert ranking.query["path"].iloc[q] not in paths and len(paths) == len(train) - 1 and not late


def test_people_with_one_image_each_ask_for_nobody(open_run):
    run = open_run(variant="classifier", demo_images=2, demo_sessions=1, validation="published")
    assert neighbours.rank_training_images(run.manifest.train, None) is None
    assert neighbours.count_nearest(None).startswith("no training person has two images")
    assert (
        neighbours.choose_changed(None, None) == []
        and neighbours.draw_neighbours(None, run.data_root, [], "Before").width == 1400
    )


def test_gains_come_first_and_losses_last():
    query = pd.DataFrame({"path": list("abcd"), "identity": [1, 2, 3, 4], "aspect": "hand"})
    gallery = query.assign(path=list("efgh"))
    good = np.eye(4)
    bad = good.copy()
    bad[0, 0], bad[3, 3] = -1, -0.5  # a and d rank their own image last
    before, after = Ranking(query, gallery, bad), Ranking(query, gallery, good)
    assert neighbours.choose_changed(before, after) == [0, 3]
    worse = good.copy()
    worse[2, 2] = -1
    assert neighbours.choose_changed(Ranking(query, gallery, bad), Ranking(query, gallery, worse)) == [0, 3, 2]
    assert neighbours.choose_changed(after, after) == after.hardest(3).tolist()  # nothing moved


def test_every_anchor_ranks_all_training_images(open_run):
    run = open_run(variant="clipid")
    start = loading.load_pretrained_encoder(run)
    people = sorted(run.manifest.train["identity"].unique())
    ranking = neighbours.rank_for_anchors(run.manifest.train, start, PromptBank(start.backbone, people))
    assert ranking.query["identity"].tolist() == people
    assert ranking.similarity.shape == (len(people), len(run.manifest.train))


def test_the_anchor_map_shows_before_and_after_where_there_are_anchors(open_run, tmp_path):
    run = open_run(fresh=tmp_path, variant="clipid")
    clip, bank, _ = learn(run)
    train, start = run.manifest.train, loading.load_pretrained_encoder(run)
    assert [axes.get_title() for axes in neighbours.draw_anchor_map(train, start, start, bank).axes] == [
        "before fine-tuning"
    ]
    with torch.no_grad():
        clip.clip.visual.attnpool.c_proj.weight.mul_(-1)
    figure = neighbours.draw_anchor_map(train, start, replace(start, backbone=clip, sha="other"), bank)
    assert [axes.get_title() for axes in figure.axes] == ["before fine-tuning", "after"]
    (axes,) = neighbours.draw_anchor_map(train, start, start, None).axes
    assert axes.texts[0].get_text() == "This variant learns no anchors."


def test_a_token_that_is_a_word_is_named_by_it(open_run):
    clip = loading.load_backbone(open_run(variant="clipid"))
    bank = PromptBank(clip, [5, 6], num_prompts=1)
    with torch.no_grad():
        for row, word in enumerate(("dark", "left")):
            bank.codes[row] = clip.embed_tokens(torch.tensor(clip.tokenizer.encode(word)))
    named = neighbours.name_nearest_words(bank, clip)
    assert neighbours.name_nearest_words(PromptBank(clip, [5, 6], form="shared", words=["a.", "b."]), clip).shape == (
        1,
        4,
    )
    fixed = neighbours.name_nearest_words(PromptBank(clip, [5, 6], form="fixed", words=["hand.", "dark hand."]), clip)
    assert fixed["sentence"].to_dict() == {5: "a photo of a hand.", 6: "a photo of a dark hand."}
    assert named.index.tolist() == [5, 6] and named["[X]1"].str.split(", ").str[0].tolist() == [
        "dark (1.00)",
        "left (1.00)",
    ]
