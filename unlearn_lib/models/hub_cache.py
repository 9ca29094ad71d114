"""The models that the Hugging Face hub's cache holds on this machine."""

from __future__ import annotations

from pathlib import Path

from unlearn_lib.errors import InputError


def in_cache(name: str, file: str = "config.json", revision: str | None = None) -> Path | None:
    """A file of a model in the hub's cache on this machine, None where it is not there.

    Raises:
        InputError: Not a valid name on the hub.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError as error:
        raise InputError(
            f"{name!r} is neither a folder nor a valid hub name; embedded models are nano/neo-s, -m, -l and nano/opt-s, -m, -l"
        ) from error
    return Path(found) if isinstance(found, str) else None


def weights_revision(name: str, revision: str | None = None) -> str | None:
    """The revision under which the cache holds a model's safetensors, None where it holds none.

    That is the one asked for; or, where the publisher gave a pickle only (all of OPT), the pull request of the hub's conversion
    service, whose file transformers downloads instead and does not find again without a network.

    Raises:
        InputError: Not a valid name on the hub; several pull requests have weights.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    def held(asked: str) -> bool:
        files = ("model.safetensors", "model.safetensors.index.json")
        return any(in_cache(name, file, asked) is not None for file in files)

    if held(revision or "main"):
        return revision or "main"
    if revision is not None:
        return None
    requests = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "refs" / "refs" / "pr"
    found = [asked for asked in (f"refs/pr/{path.name}" for path in sorted(requests.glob("*"))) if held(asked)]
    if len(found) > 1:
        raise InputError(
            f"the cache holds no safetensors of {name!r} itself, but those of several pull requests: {', '.join(found)}; remove all but "
            "one, or say which with revision="
        )
    return found[0] if found else None


def weights_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of the cache that holds a model's safetensors, None where it holds none.

    Raises:
        InputError: As `weights_revision`.
    """
    found = weights_revision(name, revision)
    if found is None:
        return None
    files = (in_cache(name, file, found) for file in ("model.safetensors", "model.safetensors.index.json"))
    return next(file for file in files if file is not None).parent


def commits(name: str) -> dict[str, str] | None:
    """The commits of the hub that the cached configuration and weights of a model are from; None where one of them is not here."""
    config, weights = in_cache(name), weights_folder(name)
    return None if config is None or weights is None else {"config": config.parent.name, "weights": weights.name}
