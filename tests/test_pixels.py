import copy
import gc
import weakref

import pytest
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone, encode
from clipreid_lib.data import pixels
from clipreid_lib.data.datasets import load_images
from clipreid_lib.data.photographs import Photographs
from clipreid_lib.method.encoder_finetune import EncoderSettings, finetune
from clipreid_lib.method.loss_terms import IdentityLoss, Term, TripletLoss
from clipreid_lib.method.prompt_learning import PromptSettings, learn_prompts
from clipreid_lib.runs import training
from clipreid_lib.scores.encoder import Encoder

BATCH = 8


@pytest.fixture
def table(hands):
    return load_images("11k", hands).query("aspect == 'dorsal_r'")


@pytest.fixture
def both(hands, table, monkeypatch):
    """The same pixels as a tensor and on demand."""
    whole = pixels.load_pixels(Photographs(hands), table, 96)
    monkeypatch.setattr(pixels, "SHARE", 0)
    return whole, pixels.load_pixels(Photographs(hands), table, 96)


@pytest.fixture
def held(monkeypatch):
    """What is read and not yet let go of; the most rows there ever were at once."""
    there, most, real = weakref.WeakSet(), [0], Photographs.load

    class Rows:
        def __init__(self, number):
            self.number = number

    def load(self, table, size):
        found, rows = real(self, table, size), Rows(len(table))
        there.add(rows)
        weakref.finalize(found, lambda rows: None, rows)  # keeps the count as long as the pixels live
        gc.collect()
        most[0] = max(most[0], sum(each.number for each in there))
        return found

    monkeypatch.setattr(Photographs, "load", load)
    return most


def test_on_demand_gives_the_same_rows(both, table):
    whole, lazy = both
    assert isinstance(whole, torch.Tensor) and isinstance(lazy, pixels.PixelsOnDemand)
    assert len(lazy) == len(whole) == len(table)
    for rows in (torch.tensor([3]), torch.tensor([5, 0, 5]), torch.arange(len(table))):
        assert torch.equal(lazy[rows], whole[rows]) and lazy[rows].dtype == torch.uint8


def test_what_does_not_fit_is_told_with_the_way_to_be_faster(hands, table, monkeypatch, capsys):
    monkeypatch.setattr(pixels.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 3 * 96 * 96 * 32})())
    pixels.load_pixels(Photographs(hands), table.iloc[:10], 96)
    assert capsys.readouterr().out == ""  # a third is free for ten images of 32
    pixels.load_pixels(Photographs(hands), table.iloc[:11], 96)
    assert "read batch by batch, faster after clipreid data prepare" in capsys.readouterr().out


@pytest.mark.heavy
@pytest.mark.training
def test_training_and_features_are_the_same_and_few_batches_are_held(both, table, held, monkeypatch):
    monkeypatch.setattr(encode, "BATCH", BATCH)
    labels = table["identity"].tolist()
    made = []
    for images in both:
        clip = backbone.load("embedded")
        bank, _ = learn_prompts(clip, images, labels, PromptSettings(epochs=1, batch_size=BATCH))
        terms = {"identity": Term(1.0, IdentityLoss()), "triplet": Term(1.0, TripletLoss())}
        settings = EncoderSettings(epochs=2, batch_size=BATCH, images_per_identity=2, lr=1e-4)
        model, log = finetune(clip, images, labels, terms, settings)
        made.append((bank.state_dict(), copy.deepcopy(model.state_dict()), encode.encode(clip, images).embedding, log))
    for one, other in zip(*(each[:2] for each in made), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(made[0][2], made[1][2]) and made[0][3]["loss"].equals(made[1][3]["loss"])
    assert BATCH <= held[0] <= 3 * BATCH < len(table)


def test_runs_and_encoders_read_on_demand_where_memory_is_short(tmp_path, open_run, monkeypatch):
    run, clip = open_run(variant="classifier", validation="published"), backbone.load("embedded")
    encoder = Encoder(clip, "weights", tmp_path, run.table, run.photographs)
    whole, features = training.load_training_set(run, clip).images, encoder.encode(run.table.iloc[:20])
    monkeypatch.setattr(pixels, "SHARE", 0)
    lazy = training.load_training_set(run, clip).images
    assert isinstance(lazy, pixels.PixelsOnDemand) and torch.equal(lazy[torch.arange(len(lazy))], whole)
    assert torch.equal(encoder.encode(run.table.iloc[:20]).values, features.values)


def test_an_image_that_cannot_be_read_is_named_when_its_turn_comes(hands, table, monkeypatch):
    monkeypatch.setattr(pixels, "SHARE", 0)
    lazy = pixels.load_pixels(Photographs(hands), table.assign(path="none.jpg"), 96)
    with pytest.raises(UserError, match="none.jpg: image not found"):
        encode.encode(backbone.load("embedded"), lazy)
