"""The training loop's resume states: what is in them, when they are written, and by whom."""

import threading
import warnings
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone
from clipreid_lib.method import resume
from clipreid_lib.method.clipid_model import ClipidModel
from clipreid_lib.method.resume import Keep, ResumeWriter, trainable_state
from clipreid_lib.method.training_loop import Loop


class Clock:
    """Seconds that a test turns."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def held_bytes(tensors):
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.slow
def test_a_state_holds_what_learns_and_its_buffers_and_nothing_else():
    model = ClipidModel(backbone.load("ViT-B-32", "random"), 10)
    learning = [p for p in model.parameters() if p.requires_grad]
    buffers = [b for head in (model.head, model.head_proj) for b in head.norm.buffers()]
    stored = trainable_state(model)
    assert held_bytes(stored.values()) == held_bytes(learning) + held_bytes(buffers)
    assert not [name for name in stored if "text" in name or "token_embedding" in name]
    assert held_bytes(stored.values()) < 360e6  # the image tower; with the text tower it would be 600 MB


def linear_loop(epochs, clock_turns=lambda: None, losses=None):
    learner = nn.Linear(2, 1, bias=False)
    nn.init.ones_(learner.weight)
    group = {"params": list(learner.parameters()), "lr": 0.1, "peak": 0.1}

    def measure():
        clock_turns()
        return {}

    return Loop(
        name="line",
        epochs=epochs,
        seed=0,
        learner=learner,
        optimiser=torch.optim.Adam([group]),
        rate=lambda epoch, epochs, peak: peak / epoch,
        batches=lambda epoch: torch.rand(3, 4, 2),
        losses=losses or (lambda batch: {"term": learner(batch).pow(2).mean()}),
        measure=measure,
    )


def test_a_state_is_written_once_a_minute_and_at_the_end(tmp_path, monkeypatch):
    clock, written, real = Clock(), [], checkpoints.save_resume

    def save(path, state):
        assert threading.current_thread() is not threading.main_thread()
        written.append(len(state["rows"]))
        real(path, state)

    monkeypatch.setattr(resume.checkpoints, "save_resume", save)
    monkeypatch.setattr(resume.ResumeWriter.__init__, "__defaults__", (clock,))
    keep = Keep(tmp_path / "log.csv", tmp_path / "state.pt")
    linear_loop(10, lambda: setattr(clock, "now", clock.now + 25)).run(keep, print)
    assert written == [3, 6, 9, 10]  # after 75, 150 and 225 seconds, and at the end
    assert len(pd.read_csv(tmp_path / "log.csv")) == 10  # the log has a row per epoch all the same


class Killed(BaseException):
    """What a kill looks like from inside."""


@pytest.mark.parametrize("every", [0.0, 60.0])
def test_a_kill_costs_time_and_no_digit(tmp_path, every):
    whole = linear_loop(6)
    log, epochs = whole.run(Keep(), print), []

    def dies():
        epochs.append(1)
        if len(epochs) == 4:  # before the fourth epoch is written down
            raise Killed

    keep = Keep(tmp_path / "log.csv", tmp_path / "state.pt", every=every)
    with pytest.raises(Killed):
        linear_loop(6, dies).run(keep, print)
    said = []
    again = linear_loop(6)
    log_again = again.run(keep, said.append)
    assert ("going on after epoch 3 of 6" in said[0]) == (every == 0)  # a minute had not passed: it begins again
    assert torch.equal(whole.learner.weight, again.learner.weight)
    assert log.drop(columns="seconds").equals(log_again.drop(columns="seconds"))


def test_what_is_written_is_the_moments_state_though_training_goes_on(tmp_path):
    weight = torch.zeros(3)
    writer = ResumeWriter(Keep(resume=tmp_path / "state.pt", key="k", every=0))
    state = {"rows": [], "learner": {"weight": weight}}
    writer.write(lambda: state, last=False)
    weight += 1
    writer.close()
    assert checkpoints.load_resume(writer.keep.resume)["learner"]["weight"].tolist() == [0, 0, 0]


def test_a_state_that_cannot_be_written_stops_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    keep = Keep(resume=tmp_path / "file" / "state.pt", every=0)
    with pytest.raises(UserError, match=r"state.pt: cannot be written"):
        linear_loop(3).run(keep, print)


def test_a_state_of_other_settings_is_announced(tmp_path):
    keep = Keep(resume=tmp_path / "state.pt", key="one")
    linear_loop(2).run(keep, print)
    said = []
    linear_loop(2).run(Keep(resume=keep.resume, key="two"), said.append)
    assert "starts again from epoch 1" in said[0] and "other settings or data" in said[0]


def test_a_state_of_another_number_format_is_announced(tmp_path):
    keep, said = Keep(resume=tmp_path / "state.pt"), []
    linear_loop(2).run(keep, print)
    replace(linear_loop(2), number="bf16").run(keep, said.append)
    assert "was computed in float32, this training computes in bf16" in said[0]


def test_a_loss_that_stops_being_a_number_says_what_to_set():
    loop = linear_loop(1, losses=lambda batch: {"term": loop.learner(batch).sum() * torch.nan})
    with pytest.raises(UserError, match="the loss is nan in epoch 1; lower the learning rate"):
        loop.run(None, print)


@pytest.mark.parametrize("in_jupyter", [True, False])
def test_a_bar_ends_where_the_epochs_end(in_jupyter, monkeypatch, capsys):
    if in_jupyter:
        monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    else:
        monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    # Fourteen batches an epoch: forty times fourteen fourteenths add up to more than forty.
    loop = replace(linear_loop(40), batches=lambda epoch: [torch.ones(3, 2)] * 14)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log = loop.run(watch=lambda line: pytest.fail(f"a line in the middle of a bar: {line}"))
    assert len(log) == 40
    out, err = capsys.readouterr()
    bar, other = (out, err) if in_jupyter else (err, out)  # Jupyter shows what is on stderr as an error
    assert other == "" and "line: epoch 40.0 of 40 |" in bar.rpartition("\r")[2] and " left, term " in bar
