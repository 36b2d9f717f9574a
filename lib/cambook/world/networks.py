"""The two networks trained on the picture world: the two heads for which CAM methods differ."""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import Bottleneck, ResNet

from .figures import CLASSES

NAMES = ("tiny_vgg", "tiny_resnet")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)    # the world's colours are spread evenly, so no statistics are needed

# Channels of each convolution, "M" for a max pooling: the rhythm of VGG16 (2, 2, 3, 3, 3 convolutions a stage).
VGG_LAYOUT = (8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 96, 96, 96, "M")


class TinyVGG(nn.Module):
    """VGG16 in small: `features.0` … `features.30` have the indices of torchvision's VGG16, the head is fully connected.

    Input (B, 3, H, W), normalised; output (B, 10) logits. At 128×128 the last convolution's map (`features.29`) is
    96×8×8. ReLUs work in place, as torchvision's do.

    `batch_norm=True` puts a batch normalisation behind each convolution. It serves training only: `fold` absorbs it
    into the convolutions afterwards, so that the network which readers meet is the plain VGG of the papers.
    """

    def __init__(self, num_classes: int = len(CLASSES), batch_norm: bool = False):
        super().__init__()
        layers, channels = [], 3
        for entry in VGG_LAYOUT:
            if entry == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers.append(nn.Conv2d(channels, entry, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(entry))
            layers.append(nn.ReLU(inplace=True))
            channels = entry
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
        self.classifier = nn.Sequential(
            nn.Linear(channels * 16, 128), nn.ReLU(inplace=True), nn.Dropout(0.1),
            nn.Linear(128, 128), nn.ReLU(inplace=True), nn.Dropout(0.1),
            nn.Linear(128, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.avgpool(self.features(images))
        return self.classifier(torch.flatten(x, 1))


def fold(trained: TinyVGG) -> TinyVGG:
    """The plain `TinyVGG` that computes what `trained` (with batch normalisation, in eval mode) computes."""
    plain, layers, folded = TinyVGG(), iter(trained.eval().features), []
    for layer in layers:
        folded.append(fuse_conv_bn_eval(layer, next(layers)) if isinstance(layer, nn.Conv2d) else layer)
    plain.features, plain.classifier = nn.Sequential(*folded), trained.classifier
    return plain.eval()


class NarrowBottleneck(Bottleneck):
    """torchvision's bottleneck without the fourfold widening at its end: layers of 64, 128, 256 and 512 channels."""

    expansion = 1


class TinyResNet(ResNet):
    """torchvision's ResNet, two narrow bottlenecks a stage, global average pooling and one linear layer.

    Input (B, 3, H, W), normalised; output (B, 10) logits. The last stage is dilated instead of strided (a switch of
    torchvision's), so that at 128×128 the last map (`layer4`) is 512×8×8 instead of 4×4.
    """

    def __init__(self, num_classes: int = len(CLASSES)):
        super().__init__(NarrowBottleneck, [2, 2, 2, 2], num_classes=num_classes, width_per_group=16,
                         replace_stride_with_dilation=[False, False, True])


def build(name: str) -> nn.Module:
    """The network `name` ("tiny_vgg" or "tiny_resnet") with fresh random weights, in training mode.

    Raises ValueError for another name. `cambook.models.load` is what gives the trained ones.
    """
    if name == "tiny_vgg":
        return TinyVGG()
    if name == "tiny_resnet":
        return TinyResNet()
    raise ValueError(f"no embedded network is called {name!r}: choose one of {', '.join(NAMES)}.")
