"""1 parity: the same numbers from the CPU and the GPU, both in float32."""

import copy
from collections.abc import Iterator

import torch
from place import Place, difference, make_terms
from verdicts import Row, judge

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.device import allow_tf32
from clipreid_lib.clip.encode import encode
from clipreid_lib.method.augment import Augment
from clipreid_lib.method.clipid_model import ClipidModel
from clipreid_lib.method.inversion import InversionLoss
from clipreid_lib.method.labels import map_labels
from clipreid_lib.method.loss_terms import AnchorLoss, Term, weigh_terms
from clipreid_lib.method.prompt_bank import PromptBank
from clipreid_lib.pages.attention import map_heat

NUMBERS, GRADIENTS = 1e-4, 1e-3  # relative
# Rounding alone moves a ResNet-50's gradients by 5e-4 with random weights (two kernels of one CPU), a ViT's by 1e-5.
# With TF32 nothing of them would be left.
RESNET_GRADIENTS = 3e-3
IMAGES = 16


def rows(place: Place) -> Iterator[Row]:
    """Compare models on both sides."""
    for model in place.pick(("vitb16", "rn50", "embedded"), ("vitb16", "embedded")):
        here = place.load(model, on_cpu=True)
        there = copy.deepcopy(here).to(place.device)
        images, labels = place.hands(here, most=IMAGES)
        ours, theirs = look(there, images, labels), look(here, images, labels)
        for what, expected in theirs.items():
            found = difference(ours[what], expected)
            yield judge(f"{model}: {what}", found, at_most=NUMBERS, beside="CPU, relative")
        ours, theirs = learn(there, images, labels), learn(here, images, labels)
        for what, expected in theirs.items():
            steep = GRADIENTS if here.is_vit else RESNET_GRADIENTS
            limit = steep if what.startswith("gradient") else NUMBERS
            yield judge(f"{model}: {what}", difference(ours[what], expected), at_most=limit, beside="CPU, relative")


def look(clip: Backbone, images: torch.Tensor, labels: list[int]) -> dict[str, torch.Tensor]:
    """Return features, anchors and heat by name, on any device."""
    out = encode(clip, images)
    torch.manual_seed(1)
    bank = PromptBank(clip, sorted(set(labels))).to(clip.device)
    with allow_tf32(False):
        heat = map_heat(clip, images[[0, -1]])
        anchors = bank.anchors(clip)
    return {"f_last": out.f_last, "f": out.f, "f_proj": out.f_proj, "anchors": anchors, heat.method: heat.maps}


def learn(clip: Backbone, images: torch.Tensor, labels: list[int]) -> dict[str, torch.Tensor]:
    """Return the value of every loss on the same crops, and the gradients of image tower and heads."""
    torch.manual_seed(2)
    model = ClipidModel(clip, len(set(labels))).to(clip.device).train()
    terms = make_terms(clip, "clipid", labels) | {"inversion": Term(1.0, InversionLoss())}
    # Anchors computed here would add their own difference.
    anchors = torch.randn(len(set(labels)), clip.clip.visual.output_dim).to(clip.device)
    terms["image_to_text"] = Term(1.0, AnchorLoss(anchors, clip.logit_scale))
    inversion = terms["inversion"].loss
    inversion.build(clip)
    inversion.eval()  # dropout draws on the device
    torch.manual_seed(3)
    seen = Augment(clip.image_size, *clip.normalisation)(images.to(clip.device))
    with allow_tf32(False):
        found = weigh_named(terms, model, seen, map_labels(labels)[1].to(clip.device))
        sum(found.values()).backward()
    heads = [p for name, p in model.named_parameters() if p.grad is not None and name.startswith("head")]
    tower = [p for p in clip.clip.visual.parameters() if p.grad is not None]
    grown = {"image tower": tower, "heads": heads, "inversion": list(inversion.parameters())}
    gradients = {f"gradient of {k}": torch.cat([p.grad.flatten() for p in each]) for k, each in grown.items()}
    return {"crops": seen, **{f"loss {name}": value for name, value in found.items()}, **gradients}


def weigh_named(terms: dict, model: ClipidModel, seen: torch.Tensor, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return every loss under a name of its own: inversion and anchors both have an ``image_to_text``."""
    out = model(seen)
    return {
        name if name == each else f"{name} {each}": value
        for name, term in terms.items()
        for each, value in weigh_terms({name: term}, out, rows).items()
    }
