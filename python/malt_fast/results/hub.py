"""Uploads of an export to the Hugging Face hub, into private repositories."""

from pathlib import Path
from typing import Any

from malt_fast.utils.errors import MaltError, first_line


class Hub:
    """Pushes adapters and data to NAME-ROLE, merged checkpoints to NAME-ROLE-merged."""

    def __init__(self, api: Any, name: str) -> None:
        self.api, self.name = api, name

    def push(self, folder: Path, place: str) -> str:
        """Upload the folder of an export named `place`, such as data/verifier; its address.

        Raises MaltError if the hub refuses or cannot be reached.
        """
        import httpx

        part, _, role = place.partition("/")
        repo = f"{self.name}-{role}" + ("-merged" if part == "merged" else "")
        kind = "dataset" if part == "data" else "model"
        try:
            url = self.api.create_repo(repo, repo_type=kind, private=True, exist_ok=True)
            self.api.upload_folder(
                repo_id=url.repo_id,
                repo_type=kind,
                folder_path=folder,
                commit_message=f"{place} by malt-fast",
            )
        except (OSError, ValueError, httpx.HTTPError) as error:
            raise MaltError(
                f"{place} cannot be pushed to {repo} ({first_line(error)}): it stays in {folder}; "
                "check the name, the token's rights and the network, and repeat the command"
            ) from None
        return str(url)


def open_hub(name: str) -> Hub:
    """Raises MaltError for a name that no repository can have, or if no token is set."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(f"{name}-role")
    except HFValidationError:
        raise MaltError(
            f"--push_to_hub = '{name}' cannot name a repository: give USER/NAME of letters, "
            "digits, '-', '_' and '.'"
        ) from None
    if get_token() is None:
        raise MaltError("no Hugging Face token is set: set HF_TOKEN, or run `hf auth login`")
    return Hub(HfApi(), name)
