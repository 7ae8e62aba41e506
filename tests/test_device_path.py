"""The whole path on torch's ``meta`` device: a tensor that is left on the CPU fails as it would on a GPU."""

import pytest
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone, device
from clipreid_lib.clip.feed import feed, keep_on_device
from clipreid_lib.method import training_loop
from clipreid_lib.method.encoder_finetune import EncoderSettings, finetune
from clipreid_lib.method.inversion import InversionLoss
from clipreid_lib.method.loss_terms import AnchorLoss, IdentityLoss, Term, TripletLoss
from clipreid_lib.method.prompt_learning import PromptSettings, learn_prompts
from clipreid_lib.method.promptsg import SentenceLoss

META = torch.device("meta")
LABELS = [number // 4 for number in range(16)]


@pytest.fixture
def numbers(monkeypatch):
    """Meta tensors hold no numbers; where the host reads one it gets 1, or an empty tensor's worth of zeros."""
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: 1.0 if self.is_meta else self.item())
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda self: torch.zeros_like(self, device="cpu") if self.is_meta else cpu(self)
    )


def settings_for(clip, **more):
    return EncoderSettings(epochs=1, batch_size=8, images_per_identity=4, **more)


@pytest.mark.parametrize("model", ["embedded", pytest.param("vitb16", marks=pytest.mark.heavy)])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_stages_leave_nothing_on_the_cpu(numbers, model, checkpointing):
    clip = backbone.load(model, None if model == "embedded" else "random")
    scale = clip.logit_scale
    clip = clip.to(META)
    images = torch.zeros(16, 3, *clip.image_size, dtype=torch.uint8)
    bank, log = learn_prompts(clip, images, LABELS, PromptSettings(epochs=1, batch_size=8))
    anchors = bank.anchors(clip)
    assert anchors.device == META and len(log) == 1
    terms = {
        "identity": Term(1.0, IdentityLoss()),
        "triplet": Term(1.0, TripletLoss()),
        "image_to_text": Term(1.0, AnchorLoss(anchors, scale)),
        "inversion": Term(1.0, InversionLoss()),
        "sentence": Term(1.0, SentenceLoss(scale)),
    }
    chosen = settings_for(clip, checkpointing=checkpointing, compose="word")
    model, log = finetune(clip, images, LABELS, terms, chosen, validate=lambda _: {"validation": 1.0})
    assert {p.device for p in model.parameters()} == {META} and "inversion" not in log
    assert {"identity", "triplet", "image_to_text", "text_to_image"} <= set(log)


def test_losses_get_float32_features_and_logits_whatever_the_tower_computes_in(monkeypatch):
    seen = []

    def loss(out, rows):
        seen.extend([out.features.f_last, out.features.f, out.features.f_proj, out.logits, out.logits_proj])
        return out.logits.sum()

    clip = backbone.load("embedded")
    images = torch.randint(0, 255, (16, 3, *clip.image_size), dtype=torch.uint8)
    finetune(clip, images, LABELS, {"any": Term(1.0, loss)}, settings_for(clip, precision="bf16"))
    assert seen and {tensor.dtype for tensor in seen} == {torch.float32}


def test_rounded_products_are_allowed_only_inside():
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    with device.allow_tf32(True):
        assert all(switch.allow_tf32 for switch in switches)
        with device.allow_tf32(False):
            assert not any(switch.allow_tf32 for switch in switches)
        assert all(switch.allow_tf32 for switch in switches)
    assert [switch.allow_tf32 for switch in switches] == before


class Folder:
    """Images that are made when they are asked for, as from a folder too large for memory."""

    def __init__(self, images):
        self.images, self.asked = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        self.asked.append(len(rows))
        return self.images[rows]


def test_images_that_are_no_tensor_are_fetched_batch_by_batch():
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(-1, 3, 2, 2)
    folder, batches = Folder(images), [torch.tensor([3, 1, 4]), torch.tensor([9, 2])]
    for source in (folder, images):
        for (rows, seen), batch in zip(feed(source, batches, torch.device("cpu")), batches, strict=True):
            assert torch.equal(rows, batch) and torch.equal(seen, images[batch])
    assert folder.asked == [3, 2] and keep_on_device(folder, torch.device("cpu")) is folder
    assert list(feed(images, [], torch.device("cpu"))) == []


def test_images_stay_off_a_gpu_that_they_would_fill(monkeypatch):
    class Big(torch.Tensor):
        nbytes = 11 * 2**30

    images = torch.zeros(1, 3, 2, 2, dtype=torch.uint8).as_subclass(Big)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * 2**30, 80 * 2**30))
    assert keep_on_device(images, torch.device("cuda")) is images


def test_full_memory_says_what_to_set(monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 8 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * 2**30)
    monkeypatch.setattr(training_loop.Loop, "run", full)
    clip = backbone.load("embedded")
    images = torch.zeros(8, 3, *clip.image_size, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"batch_size 64 of 96 pixels; of 8.0 GiB this .* 2.0 and 1.0 are free"):
        finetune(clip, images, LABELS[:8], {"identity": Term(1.0, IdentityLoss())})
