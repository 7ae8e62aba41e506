"""What the machine's GPUs decide, with a driver that the tests write themselves."""

import json

import pytest
import torch

from clipreid_lib.base import accelerator
from clipreid_lib.base.accelerator import list_cards, resolve_precision
from clipreid_lib.base.errors import UserError
from clipreid_lib.params import check
from clipreid_lib.runs import local, machine, slurm

TWO = "0, NVIDIA H100 80GB HBM3, 580.65.06, 81043, 81559, GPU-aa\n1, Tesla T4, 580.65.06, [N/A], 15360, GPU-bb\n"


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Install a ``nvidia-smi`` that prints what a test wants."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(said, seconds=0):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\nsleep {seconds}\ncat <<'END'\n{said}END\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        accelerator._ask_cards.cache_clear()

    yield install
    accelerator._ask_cards.cache_clear()


@pytest.fixture
def torch_with(monkeypatch):
    """Let torch see cards, of which each computes bf16 or not."""

    def see(*bf16):
        seen = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(bf16))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(bf16))

        class Chosen:
            def __init__(self, card):
                self.card = card

            def __enter__(self):
                seen.append(self.card)

            def __exit__(self, *_):
                seen.pop()

        monkeypatch.setattr(torch.cuda, "device", Chosen)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16[seen[-1]])
        accelerator._ask_cards.cache_clear()

    return see


def test_cards_are_read_off_the_driver(driver, monkeypatch):
    driver(TWO)
    first, second = list_cards()
    assert (first.number, first.name, first.driver, round(first.total)) == (
        "0",
        "NVIDIA H100 80GB HBM3",
        "580.65.06",
        80,
    )
    assert (second.free, second.total) == (0, 15)  # a value that the driver does not know
    for told, expected in (("1", ["1"]), ("GPU-aa", ["0"]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
        assert [card.number for card in list_cards()] == expected


def test_a_driver_that_does_not_answer_is_no_card(driver, monkeypatch):
    driver(TWO, seconds=5)
    monkeypatch.setattr(accelerator, "PATIENCE", 0.2)
    assert list_cards() == []


def test_formats_on_a_cpu():
    assert [resolve_precision(p, "cpu") for p in ("auto", "float32", "bf16")] == ["float32", "float32", "bf16"]
    for precision in ("fp16", "tf32"):
        with pytest.raises(UserError, match=f"precision: {precision} needs a"):
            resolve_precision(precision, "cpu")


def test_formats_are_asked_of_the_card_that_is_meant(torch_with, driver):
    driver(TWO)
    torch_with(False, True)  # an old card beside a new one
    assert [resolve_precision("auto", f"cuda:{card}") for card in (0, 1)] == ["float32", "bf16"]
    assert resolve_precision("tf32", "cuda:1") == "tf32" and resolve_precision("fp16", "auto") == "fp16"
    with pytest.raises(UserError, match="tf32 needs an NVIDIA GPU of 2020"):
        resolve_precision("tf32", "cuda:0")
    with pytest.raises(UserError, match="auto is bf16 on one GPU of this machine and float32 on another"):
        resolve_precision("auto", "auto")


def test_the_format_is_part_of_the_run_id_and_old_ids_stay(torch_with, driver):
    def named(**values):
        return check.validate_params(values).run_id

    plain = named()
    assert named(precision="float32") == plain == named(device="cpu")
    assert named(precision="bf16") != plain
    driver(TWO)
    torch_with(True, True)
    assert named() == named(precision="bf16") != named(device="cpu") == plain
    assert len({named(precision=p) for p in ("auto", "float32", "tf32", "fp16")}) == 4
    frozen = {named(variant="frozen", device=device) for device in ("auto", "cpu")}
    assert len(frozen) == 1  # nothing of it is computed in another format


def test_a_card_that_torch_cannot_use_is_told_before_anything_starts(driver, monkeypatch):
    driver(TWO)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"NVIDIA H100 .*driver 580.65.06.*a build for CPUs.*write device: cpu"):
        machine.choose_device("auto")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UserError, match=r"built for CUDA 13.0.*a newer driver"):
        machine.choose_device("auto")
    assert machine.choose_device("cpu") == "cpu"
    driver("")  # the program is there and finds nothing
    assert machine.choose_device("auto") in ("cpu", "mps")


def test_jobs_that_share_a_card_are_told_its_memory(driver, capsys):
    driver(TWO)
    slots = local.Local([], jobs=3)._slots()
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "1", "0"]
    assert {slot["CUDA_DEVICE_ORDER"] for slot in slots} == {"PCI_BUS_ID"}
    assert capsys.readouterr().out == "GPU 0 (NVIDIA H100 80GB HBM3): 79 of 80 GiB are free, 2 runs share it\n"
    assert "CUDA_VISIBLE_DEVICES" not in local.Local([], jobs=1)._slots()[0]


def test_provenance_names_the_card(driver):
    assert "gpus" not in machine.provenance()
    driver(TWO)
    assert machine.provenance()["gpus"][0] == "NVIDIA H100 80GB HBM3, driver 580.65.06"
    json.dumps(machine.provenance())


def test_jobs_for_other_machines_must_say_their_format(monkeypatch):
    monkeypatch.setattr(slurm.shutil, "which", lambda command: command)
    monkeypatch.setattr(slurm, "list_cards", list)
    with pytest.raises(UserError, match="precision: auto cannot be told here for the GPUs of the jobs' machines"):
        slurm.submit([check.validate_params({})], slurm.Settings(gpus=1))
