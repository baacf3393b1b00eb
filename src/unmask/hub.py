"""Strict saving and loading of policy folders (config.json, model.safetensors, README.md, origin.json), and the Hub.

Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unmask.errors import UnmaskError
from unmask.files import read_object, write_text, written_whole

ASSETS = Path(__file__).parent / "assets"
ORIGIN = "origin.json"
NO_TOKEN = "The Hub wants a token that may write: run `hf auth login`, or set HF_TOKEN."


@dataclass(frozen=True)
class Origin:
    """The policy that a training began from, as the folder of the trained one says.

    Attributes:
        start: its folder, relative to that of the trained policy.
        weights: `weights_digest` of it.
    """

    start: str
    weights: str


def save_policy_folder(
    folder: str | Path, config: Mapping[str, Any], weights: Mapping[str, Tensor] | None, card: str | None = None
) -> None:
    """Write config.json, and model.safetensors and README.md where there are any.

    Raises:
        UnmaskError: the folder holds files that are not a policy's.
    """
    check_policy_folder(folder)
    with written_whole(folder) as draft:
        (draft / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
        if weights is not None:
            save_file(dict(weights), draft / "model.safetensors", metadata={"format": "pt"})
        if card is not None:
            (draft / "README.md").write_text(card, encoding="utf-8")


def check_policy_folder(folder: str | Path) -> None:
    """See that a policy can be saved to a folder.

    Raises:
        UnmaskError: it holds files that are not a policy's.
    """
    known = {"config.json", "model.safetensors", "README.md", "calibration.json", ORIGIN}
    others = sorted(p.name for p in Path(folder).iterdir() if p.name not in known) if Path(folder).is_dir() else []
    if others:
        raise UnmaskError(f"{folder} holds other files ({others[0]}): save the policy to a folder of its own.")


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a policy folder.

    Raises:
        UnmaskError: it is missing or not a JSON object.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UnmaskError(f"{folder} has no config.json: give a folder that `policy.save` wrote.")
    return read_object(path, "save the policy again")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UnmaskError: the file is missing or corrupt.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UnmaskError(f"No weights at {path}: copy the whole folder, model.safetensors included.") from None
    except (SafetensorError, OSError) as e:
        raise UnmaskError(f"{path} is not a readable safetensors file ({e}): copy or save it again.") from None


def weights_digest(weights: Mapping[str, Tensor] | None) -> str:
    """Twelve hexadecimal digits that tell a policy's weights from others under the same name.

    Weights stored in half of the bits have the digest that they have once they are loaded.
    """
    digest = hashlib.sha256()
    for name, value in sorted((weights or {}).items()):
        loaded = value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
        digest.update(name.encode() + loaded.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def write_origin(folder: str | Path, start: str | Path) -> None:
    """Say in a saved policy's folder which saved policy its training began from; saving it again removes this."""
    weights = weights_digest(read_weights(Path(start) / "model.safetensors"))
    origin = Origin(Path(os.path.relpath(start, folder)).as_posix(), weights)
    write_text(Path(folder) / ORIGIN, json.dumps(asdict(origin), indent=2) + "\n")


def read_origin(folder: str | Path) -> Origin | None:
    """What `write_origin` wrote; None if it did not.

    Raises:
        UnmaskError: the file is broken.
    """
    path = Path(folder) / ORIGIN
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Origin(str(values["start"]), str(values["weights"]))
    except (ValueError, KeyError, TypeError):
        raise UnmaskError(f"{path} does not say what the training began from: delete it, or train again.") from None


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load weights into a module: every tensor must be there, of the same shape and dtype, and none left over.

    float16 and bfloat16 are widened to float32.

    Raises:
        UnmaskError: naming the first tensor that does not fit, or that is not finite.
    """
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in weights:
            raise UnmaskError(f"{where} lacks the tensor {name!r}: it was saved from another architecture.")
        given = weights[name]
        if given.shape != tensor.shape:
            raise UnmaskError(
                f"{where}: tensor {name!r} has shape {tuple(given.shape)}, but config.json asks for "
                f"{tuple(tensor.shape)}: take both files from one folder."
            )
        if given.dtype != tensor.dtype and not _holds(tensor.dtype, given.dtype):
            was, wanted = (str(dtype).removeprefix("torch.") for dtype in (given.dtype, tensor.dtype))
            raise UnmaskError(f"{where}: tensor {name!r} is {was}, not {wanted}: convert it and save the file again.")
        if not is_finite(given):
            raise UnmaskError(f"{where}: tensor {name!r} holds NaN or infinity: take an earlier checkpoint.")
    for name in weights:
        if name not in expected:
            raise UnmaskError(f"{where} holds an unknown tensor {name!r}: it was saved from another architecture.")
    module.load_state_dict(dict(weights))


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    return wide == torch.float32 and narrow in (torch.float16, torch.bfloat16)


def is_finite(tensor: Tensor) -> bool:
    """False if it holds NaN or infinity.

    A finite sum has no such terms, and costs one pass without a copy: on a CPU 0.3 s for 8B weights in bfloat16, where
    `isfinite` takes 20 s. It is asked only where the sum overflows.
    """
    if not tensor.is_floating_point():
        return True
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def bundled(kind: str) -> dict[str, Path]:
    """Folders shipped in the package: name -> path, for kind ``models`` or ``policies``."""
    root = ASSETS / kind
    return {p.name: p for p in sorted(root.iterdir()) if p.is_dir()} if root.is_dir() else {}


def holds_weights(folder: str | Path) -> bool:
    """What else is in a folder, such as results, does not hide the bundled thing of that name."""
    return any(Path(folder).glob("*.safetensors")) or any(Path(folder).glob("best/*.safetensors"))


def find_policy_folder(name_or_path: str) -> Path:
    """A local folder (of a training run: its best/), a bundled name, or else a Hub id (downloaded).

    ``user/repo@revision`` is a branch, a tag or a commit of the Hub's.

    Raises:
        UnmaskError: none of the three.
    """
    path = Path(name_or_path)
    if path.is_file():
        raise UnmaskError(f"{path} is a file: give the policy's folder.")
    shipped = bundled("policies")
    if path.exists() and (name_or_path not in shipped or holds_weights(path)):
        in_run = path / "best"  # of a training run's folder
        return in_run if (path / "metrics.jsonl").exists() and (in_run / "config.json").exists() else path
    if name_or_path in shipped:
        return shipped[name_or_path]
    repo, _, revision = name_or_path.partition("@")
    try:
        return Path(
            snapshot_download(repo, revision=revision or None, allow_patterns=["*.json", "*.safetensors", "*.md"])
        )
    except RevisionNotFoundError:
        raise UnmaskError(f"The Hub's {repo} has no revision {revision!r}: give a branch, a tag or a commit.") from None
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        raise UnmaskError(
            f"No policy {name_or_path!r}: it is no local folder, no Hub id that can be reached, and not one of the "
            f"bundled policies ({', '.join(shipped) or 'none'})."
        ) from None


def push_folder(
    folder: str | Path,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> CommitInfo:
    """Upload a folder to the Hub; the repo and the branch are made where they are not there.

    Args:
        repo: ``user/name``.
        private: of a repo that is made now; None for what its owner has chosen.
        revision: branch; main by default.
        message: of the commit.
        token: by default the one that `hf auth login` or HF_TOKEN gave.

    Returns:
        What the Hub says of the commit: ``oid``, ``commit_url``.

    Raises:
        UnmaskError: no such name, no token or one that may not write there, a Hub that cannot be reached.
    """
    hub = HfApi(token=token)
    try:
        hub.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            hub.create_branch(repo, branch=revision, exist_ok=True)
        return hub.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            commit_message=message or "Upload an unmasking policy",
            delete_patterns=["*.json", "*.safetensors", "*.png", "README.md"],  # what another policy has left there
        )
    except HFValidationError:
        raise UnmaskError(f"{repo!r} is no name of a repo: give user/name.") from None
    except LocalTokenNotFoundError:
        raise UnmaskError(NO_TOKEN) from None
    except OfflineModeIsEnabled:
        raise UnmaskError("HF_HUB_OFFLINE is set, which forbids all uploads: unset it.") from None
    except HfHubHTTPError as e:
        status = e.response.status_code if e.response is not None else None
        if status == 401:
            raise UnmaskError(NO_TOKEN) from None
        told = {403: f"The token may not write to {repo}: use one that may, or a repo of your own."}
        raise UnmaskError(told.get(status or 0, f"The Hub refused {repo} ({' '.join(str(e).split())}).")) from None
    except Exception as e:  # the client's HTTP library has its own, under a name that changes
        raise UnmaskError(
            f"The Hub cannot be reached ({' '.join(str(e).split())}): see to the network and HF_ENDPOINT."
        ) from None
