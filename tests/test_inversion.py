import torch
from small_runs import finetune

from clipreid_lib.clip import backbone
from clipreid_lib.method.inversion import Inversion
from clipreid_lib.runs import loading


def test_each_image_gets_a_sentence_of_its_own_and_gradients_reach_the_network():
    clip = backbone.load("embedded")
    torch.manual_seed(0)
    reader = Inversion(clip).eval()
    images = torch.randn(3, clip.clip.visual.output_dim, requires_grad=True)
    text = reader.text_features(clip, images)
    assert torch.pdist(text).min() > 1e-3  # averaged over its components, every word would be the same
    text.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in reader.network.parameters())
    assert images.grad.abs().sum() > 0 and all(p.grad is None for p in clip.parameters())


def test_words_start_as_long_as_the_vocabularys():
    clip = backbone.load("embedded")
    torch.manual_seed(0)
    word = Inversion(clip).eval().network(torch.randn(50, clip.clip.visual.output_dim))
    usual = clip.text.token_embedding.weight.norm(dim=1).mean()
    torch.testing.assert_close(word.norm(dim=1).mean(), usual, rtol=0.05, atol=0)


def test_the_stage_moves_image_tower_and_network_alone(open_run, tmp_path):
    run = open_run(fresh=tmp_path, variant="inversion")
    clip = loading.load_backbone(run)
    before = {name: value.clone() for name, value in clip.clip.state_dict().items()}
    _, _, log = finetune(run, clip)
    changed = {name for name, value in clip.clip.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("visual.") for name in changed)
    assert {"identity", "image_to_text", "text_to_image"} <= set(log)
    assert loading.load_trained_encoder(run).sha
