"""`unmask push`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from cyclopts import Parameter
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from unmask.cli.common import DryRun
from unmask.cli.console import console, errors
from unmask.errors import UnmaskError
from unmask.evaluation.sharing import prepare
from unmask.hub import bundled, find_policy_folder, push_folder


def push(
    policy: Annotated[str, Parameter(help="Folder of a policy, or of the run that made it.")],
    repo: Annotated[str, Parameter(help="Where to: user/name.")],
    /,
    *,
    private: Annotated[
        bool | None, Parameter(help="Of a repo that is made now (default: as its owner has chosen).")
    ] = None,
    revision: Annotated[str | None, Parameter(help="Branch (default: main).")] = None,
    message: Annotated[str | None, Parameter(help="Of the commit.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Upload a policy to the Hub, with a card."""
    if not Path(policy).exists() and policy not in bundled("policies"):
        raise UnmaskError(f"There is no folder {policy}: give that of a policy, or of the run that made it.")
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UnmaskError(f"{repo!r} is no name of a repo: give user/name.") from None
    if "/" not in repo:
        raise UnmaskError(f"{repo!r} names no user: give user/name.")
    with TemporaryDirectory() as scratch:
        target = Path(scratch) / "policy"
        prepare(find_policy_folder(policy), repo, target)
        for file in sorted(target.iterdir()):
            console.print(f"{file.stat().st_size:>12,} bytes  {file.name}", highlight=False)
        if dry_run:
            console.print(
                (target / "README.md").read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True
            )
            return
        with errors.status(f"uploading to {repo}"):
            done = push_folder(target, repo, private=private, revision=revision, message=message)
    console.print(f"{done.commit_url}", highlight=False, soft_wrap=True)
    console.print(f'unmask.load_policy("{repo}", revision="{done.oid}")', markup=False, highlight=False, soft_wrap=True)
