"""A classifier and pictures in forms that other programs read: ONNX checked against torch, and PNG that says what it is."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, PngImagePlugin

if TYPE_CHECKING:
    from pipeline.classifier.model import Network

TOLERANCE = 1e-4  # of a logit; another order of summation in float32 makes about 1e-6
CHECKED = 64  # rows at most; the reference implementation is plain numpy


def to_onnx(network: "Network", shape: tuple[int, int, int], notes: Mapping[str, str]) -> bytes:
    """The network as an ONNX model: images float32 (batch, C, H, W) -> logits (batch, K), with `notes` as its metadata.

    The exporter's own metadata go: they hold the folders of the machine.
    """
    import torch

    height, width, channels = shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about itself
        program = torch.onnx.export(
            network.cpu().eval(),
            (torch.zeros(2, channels, height, width),),
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None, "the exporter by dynamo gives one"
    proto = program.model_proto
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for key, value in notes.items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString(deterministic=True)


def largest_difference(model: bytes, network: "Network", images: np.ndarray) -> float:
    """The largest difference between the logits of an ONNX model and of the network, for uint8 images (N, H, W, C).

    ONNX's own reference implementation is asked for one row and then for the others, two sizes of batch.
    """
    import onnx
    import torch
    from onnx.reference import ReferenceEvaluator

    from pipeline.classifier import predict
    from pipeline.samples import to_network

    proto = onnx.load_from_string(model)
    onnx.checker.check_model(proto, full_check=True)
    evaluator = ReferenceEvaluator(proto)
    batches = [to_network(part).numpy() for part in (images[:1], images[1:]) if len(part)]
    answers: list[Any] = [evaluator.run(None, {"images": batch}) for batch in batches]
    said = np.concatenate([answer[0] for answer in answers])
    return float(np.abs(said - predict.run(network, images, torch.device("cpu"))[0]).max())


def png(image: np.ndarray, texts: Mapping[str, str]) -> bytes:
    """One image uint8 (H, W, C) as PNG with these texts in it."""
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, value in texts.items():
        info.add_text(key, value)
    pixels = np.ascontiguousarray(image)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "png", pnginfo=info)
    return buffer.getvalue()


def folders(classes: Sequence[str]) -> dict[str, str]:
    """A folder name for each class that every file system takes: its number, which keeps them apart, and what it can
    show of the name; sorted by name, they are in label order."""
    digits = len(str(len(classes) - 1))
    return {
        name: f"{i:0{digits}}_{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:40].strip('_')}".rstrip("_")
        for i, name in enumerate(classes)
    }
