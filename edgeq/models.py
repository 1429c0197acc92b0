"""Networks by name: torchvision's architectures with edgeq's own, torchvision's or the user's weights."""

from __future__ import annotations

import hashlib
import mmap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any, Final, cast
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from edgeq import presets
from edgeq.errors import ArtifactError, WeightsError
from edgeq.network import Network
from edgeq.preprocess import Preprocess
from edgeq.trace import trace

DEFAULT: Final = "mobilenet_v2"

_INCEPTIONS: Final = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Source:
    """A float network and where it came from.

    Attributes:
        network: traced, batch norms folded.
        preprocess: what its images go through.
        model: name of the architecture.
        weights: `embedded`, `imagenet`, or the path of a file.
        sha256: digest of the weights, see `digest`.
        classes: number of outputs.
        keep_float: whether layers that cannot be quantized stay in float.
    """

    network: Network
    preprocess: Preprocess
    model: str
    weights: str
    sha256: str
    classes: int
    keep_float: bool

    def to_dict(self) -> dict[str, Any]:
        """Return all but the network itself, for a record."""
        names = ("model", "weights", "sha256", "classes", "keep_float")
        return {name: getattr(self, name) for name in names} | {"preprocess": self.preprocess.to_dict()}

    @staticmethod
    def from_dict(body: Mapping[str, Any]) -> Source:
        """Load the network that a record remembers.

        Raises:
            ArtifactError: the record is of a network of the API, or its weights have changed since.
            WeightsError: the weights cannot be loaded any more.
        """
        if not body:
            raise ArtifactError("the record is of a network that was passed to the API; pass it again there")
        try:
            named = str(body["model"]), str(body["weights"]), bool(body["keep_float"])
            source = load(*named, preprocess=Preprocess.from_dict(body["preprocess"]))
            expected = str(body["sha256"])
        except KeyError as error:
            raise ArtifactError(f"the record does not name its network's {error.args[0]}; calibrate again") from error
        if source.sha256 != expected:
            raise ArtifactError(
                f"{source.weights}: the weights have changed since calibration "
                f"(sha256 {expected[:12]} then, {source.sha256[:12]} now); calibrate again"
            )
        return source


def load(
    model: str = DEFAULT, weights: str = "embedded", keep_float: bool = False, preprocess: Preprocess | None = None
) -> Source:
    """Load and trace a network.

    Args:
        model: a classification network of torchvision.
        weights: `embedded` (edgeq's own MobileNetV2 of 96 x 96 characters), `imagenet` (torchvision's, downloaded
            unless cached) or the path of a safetensors file or of a state dict saved by `torch.save`.
        keep_float: leave layers that edgeq cannot quantize in float instead of refusing the network.
        preprocess: what the images go through; the network takes them in the size of its crop. None is what belongs to
            the weights. A file does not say, unless torchvision publishes it: there None is what belongs to the weights
            that `imagenet` takes, which is for the caller to check.

    Returns:
        The traced network, what its images go through, and where it came from.

    Raises:
        UnsupportedError: no such model, or one that edgeq cannot trace.
        WeightsError: the weights cannot be found or read, are not finite, or are of another architecture.

    Example:
        >>> source = edgeq.load()
        >>> source.model, source.classes, len(source.network.graph.layers)
        ('mobilenet_v2', 43, 53)
    """
    usual = presets.usual(model)
    preprocess = preprocess or presets.known(model, weights) or usual
    if weights == "embedded":
        state = _embedded(model)
    elif weights == "imagenet":
        state = _from_torchvision(model)
    else:
        state = _from_file(Path(weights))
    module = _filled(model, state, weights)
    network = trace(module, preprocess.shape, keep_float)
    return Source(network, preprocess, model, weights, digest(state), network.graph.nodes[-1].shape[0], keep_float)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of a state dict, in 64 hexadecimal digits."""
    found = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _embedded(model: str) -> dict[str, Tensor]:
    if model != DEFAULT:
        raise WeightsError(
            f"the embedded weights are of {DEFAULT}, found --model {model}; add --weights imagenet or a file"
        )
    packaged = resources.files("edgeq") / "weights" / "mobilenet_v2_glyphs.safetensors"
    with resources.as_file(packaged) as path:
        return load_file(path)


def _from_torchvision(model: str) -> dict[str, Tensor]:
    try:
        return dict(presets.imagenet_weights(model).get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"cannot download the ImageNet weights of {model} ({error}); connect to the network, "
            "pass a file with --weights FILE, or use --weights embedded"
        ) from error


def _from_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file; expected embedded, imagenet, or a safetensors or PyTorch state dict file"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _check_archive(path)
            # Of a plain file, as many bytes would be set aside as any length in it says.
            state = torch.load(cast(IO[bytes], content), map_location="cpu", weights_only=True)
    except Exception as error:  # what torch.load raises on a file of something else depends on its first bytes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{path}: expected a safetensors file or a state dict saved by torch.save, found something else ({reason})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and _is_plain(v) for k, v in state.items()):
        raise WeightsError(
            f"{path}: expected a state dict of tensors, found {type(state).__name__}; save model.state_dict()"
        )
    return state


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is: torch.save compresses nothing.

    Raises:
        ValueError: it does.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("an archive that is compressed")


def _is_plain(value: object) -> bool:
    """Whether it is a tensor on the CPU with a place in memory for each of its values."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def _filled(model: str, state: Mapping[str, Tensor], name: str) -> nn.Module:
    """Build the architecture for as many classes as the weights have, and fill it."""
    # torchvision's own weights of these two want another normalization, which they are then given inside.
    options = {"init_weights": False, "transform_input": name == "imagenet"} if model in _INCEPTIONS else {}
    plain = _empty(model, **options)
    last = [key for key, value in plain.named_parameters() if value.dim() >= 2][-1]
    if last not in state:
        raise WeightsError(f"{name}: expected weights of {model}, found none named {last}; are they of another model?")
    inputs = list(plain.get_parameter(last).shape[1:])
    if list(state[last].shape[1:]) != inputs or not state[last].numel():
        raise WeightsError(
            f"{name}: these are not weights of {model}: {last} is {list(state[last].shape)}, expected [classes, "
            f"{', '.join(map(str, inputs))}]"
        )
    module = _empty(model, num_classes=len(state[last]), **options)
    wanted = {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    wrong = [f"{k} is missing" for k in wanted if k not in given]
    wrong += [f"{k} is unexpected" for k in given if k not in wanted]
    wrong += [
        f"{k} is {list(given[k].shape)}, expected {list(v.shape)}"
        for k, v in wanted.items()
        if k in given and given[k].shape != v.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise WeightsError(f"{name}: these are not weights of {model}: {'; '.join(wrong[:3])}{more}")
    for key, value in given.items():
        if not value.is_floating_point():
            raise WeightsError(f"{name}: {key} is of {value.dtype}; use weights that are floating-point numbers")
        if not torch.isfinite(value.float()).all():
            raise WeightsError(f"{name}: {key} holds NaN or infinite values; use weights that are finite")
    whole = module.state_dict()  # with the counters of batch norms, and the versions of its parts
    whole.update({k: v.float() for k, v in given.items()})
    module.load_state_dict(whole)
    return module.eval()


def _empty(model: str, **options: int) -> nn.Module:
    """The architecture with weights that do not matter; they are drawn without moving the caller's random numbers."""
    with torch.random.fork_rng(devices=()):
        module: nn.Module = models.get_model(model, weights=None, **options)
    return module
