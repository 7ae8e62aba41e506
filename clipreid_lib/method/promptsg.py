"""PromptSG: the feature of an image's own sentence attends to the places of the image; the result is its feature.

After Yang et al., A Pedestrian is Worth One Prompt, CVPR 2024. A network turns the image's feature into a word, which
stands in "a photo of a [word] hand."; CLIP's frozen text tower reads that sentence. The composed feature needs the
image alone, in training and in the test. The sentence acts on it by the weights of the attention alone: what is found
are places of the image. To see what the word is worth, compare with the control, which has the same module.

What is done otherwise than published:

- The network that makes the word is :class:`~clipreid_lib.method.inversion.Inversion`, with layer norm, dropout and
  words as long as the vocabulary's, so that the two methods differ in what is done with the sentence. PromptSG's ends
  in batch norm.
- What the sentence finds stands before the image's places, and both blocks run over all of them. Over the sentence's
  one feature alone, self-attention would have nothing to choose from.
- Places are brought into the space shared with text by a linear layer that starts as CLIP's own projection and then
  learns; for a ResNet that is the attention pool's.
- Contrast is at the ladder's temperature (``text_logits``), and its weight is ``text_weight``.
- The test compares the composed feature, ``f`` and ``f_proj`` side by side, as CLIP-ReID compares the last two, since
  all three are trained to tell people apart. Notebook 04 shows the composed feature alone, and the others without it.
"""

from dataclasses import dataclass

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.image_features import ImageFeatures
from clipreid_lib.clip.sentences import Sentences
from clipreid_lib.method.clipid_model import ModelOutput
from clipreid_lib.method.contrastive_loss import contrast_both_ways
from clipreid_lib.method.inversion import Inversion

HEAD_WIDTH = 64  # numbers per attention head, as in CLIP's towers
BLOCKS = 2  # after the cross-attention, as published


class Interaction(nn.Module):
    """PromptSG's multimodal interaction: a text feature attends to an image's places, then two transformer blocks.

    Args:
        projection: (embed_dim, width), what brings places into the space shared with text at the start.
    """

    def __init__(self, projection: torch.Tensor) -> None:
        """Copy the projection and draw the rest."""
        super().__init__()
        width, places = projection.shape
        heads = max(1, width // HEAD_WIDTH)
        self.project = nn.Linear(places, width, bias=False)
        with torch.no_grad():
            self.project.weight.copy_(projection)
        self.norm_text, self.norm_places, self.norm_out = (nn.LayerNorm(width) for _ in range(3))
        self.ask = nn.MultiheadAttention(width, heads, batch_first=True)
        self.blocks = nn.ModuleList([ResidualAttentionBlock(width, heads) for _ in range(BLOCKS)])

    def forward(self, text: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return (B, embed_dim) for text features (B, embed_dim) and places (B, L, width)."""
        places = self.norm_places(self.project(tokens))  # (B, L, embed_dim)
        found, _ = self.ask(self.norm_text(text)[:, None], places, places, need_weights=False)  # (B, 1, embed_dim)
        x = torch.cat([found, places], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm_out(x[:, 0])


class Composer(nn.Module):
    """Makes the composed feature of images.

    Attributes:
        width: of the composed feature: that of the space shared with text.

    Args:
        backbone: its text tower reads the sentence; it is not held or changed.
        sentence: ``word`` holds a word made of each image; ``fixed`` is "a photo of a hand." for every image, the
            control: the same module and the same start, without a network that makes words.
        noun: end of the sentence.

    Raises:
        UserError: the backbone's weights hold no text tower, or its image tower is another than CLIP's own.
    """

    def __init__(self, backbone: Backbone, sentence: str = "word", noun: str = "hand.") -> None:
        """Draw the module, then the network, whose draws change nobody else's."""
        super().__init__()
        self.width = backbone.embed_dim
        self.interaction = Interaction(_project_places(backbone))
        if sentence == "fixed":
            self.sentence = Sentences(backbone, [f"a photo of a {noun}"], slots=0)
            return
        with torch.random.fork_rng(devices=[]):
            self.reader = Inversion(backbone, noun)

    def forward(
        self, backbone: Backbone, features: ImageFeatures, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compose the features of a batch.

        Args:
            backbone: the one that the composer was made for.
            features: of the images, float32.
            tokens: (B, L, width) their places, float32, from the backbone's ``image_tokens``.

        Returns:
            (B, embed_dim) composed features, and the text features (B, embed_dim) of the images' sentences.
        """
        if hasattr(self, "reader"):
            with torch.random.fork_rng(devices=[]):  # its dropout must not change the crops that follow
                text = self.reader.text_features(backbone, features.in_text_space)
        else:
            first = torch.zeros(1, dtype=torch.long, device=tokens.device)
            text = self.sentence.features(backbone, None, first).expand(len(tokens), -1)
        return self.interaction(text, tokens), text


@dataclass(frozen=True)
class SentenceLoss:
    """Contrast, in both directions, between each image and its own sentence.

    Attributes:
        scale: CLIP's learned inverse temperature, ``Backbone.logit_scale``.
        logits: ``cosine`` or ``dot``, as :func:`~clipreid_lib.method.prompt_bank.scale_pair` takes them.
    """

    scale: float
    logits: str = "cosine"

    def __call__(self, out: ModelOutput, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return ``image_to_text`` and ``text_to_image`` of a batch, (B,) rows of the label map.

        Raises:
            ValueError: the model composes nothing (``EncoderSettings.compose``).
        """
        if out.text is None:
            raise ValueError("SentenceLoss needs the sentences of EncoderSettings(compose='word')")
        return contrast_both_ways(out.features.in_text_space, out.text, rows, self.logits, self.scale)


@torch.no_grad()
def _project_places(backbone: Backbone) -> torch.Tensor:
    """Return CLIP's own projection of one place, (embed_dim, width)."""
    visual = backbone.clip.visual
    if not (backbone.has_class_token or hasattr(visual, "layer4")):
        raise UserError(f"variant: promptsg needs CLIP's own ViT or ResNet, which {backbone.name} is not")
    if backbone.is_vit:
        return visual.proj.T.float().cpu()
    return (visual.attnpool.c_proj.weight @ visual.attnpool.v_proj.weight).float().cpu()
