"""Send a model or adapter folder to a hub.

out/                           Plan
  adapter_model.safetensors      sent
  README.md                      sent; written first if there is none
  .lock, .git/                   hidden: left out
  optimizer.pt, iter_10.pth      state of a training     refused, unless allowed or excluded
  .env, id_rsa, a key in a file  credentials             the same
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.convert.card import license_of, write_card
from xtuner.credentials import without_credentials
from xtuner.errors import ConfigError, NotFoundError, XTunerError
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model_folder import read_json
from xtuner.paths import near_it

STATE = (
    "*.pth", "*.distcp", "*optim_states*", "global_step*/*", "optimizer*", "rng_state*", "scaler.pt",
    "scheduler.pt", "trainer_state.json", "training_args.bin",
)  # fmt: skip
"""Names of files that only continue a training."""

SECRET = (
    ".env",
    ".env.*",
    ".netrc",
    ".npmrc",
    "*.pem",
    "*.key",
    "id_rsa*",
    "id_ed25519*",
    "credentials*",
    "kubeconfig",
)
"""Names of files that hold keys or passwords; hidden ones are reported too, not only left out."""

_TEXTS = {
    ".json",
    ".jsonl",
    ".py",
    ".md",
    ".txt",
    ".yaml",
    ".yml",
    ".toml",
    ".cfg",
    ".ini",
    ".sh",
    ".jinja",
    ".log",
}
_MAX_SEARCHED = 1 << 20  # bytes; a larger text is data or a vocabulary


@dataclass(frozen=True)
class Plan:
    """The files of a folder that are sent, with their bytes; and those that are not, with the reason."""

    files: dict[str, int]
    refused: dict[str, str]
    num_left_out: int

    @property
    def num_bytes(self) -> int:
        return sum(self.files.values())


def plan_of(folder: Path, exclude: Sequence[str] = (), allow: Sequence[str] = ()) -> Plan:
    """What of `folder` is sent; patterns are of names or of paths in it."""
    files: dict[str, int] = {}
    refused: dict[str, str] = {}
    num_left_out = 0
    for path in _files_in(folder):
        name = path.relative_to(folder).as_posix()
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        if _matches(name, exclude):
            num_left_out += 1
        elif not _matches(name, allow) and (reason := _reason_against(path, name)):
            refused[name] = reason
        elif is_hidden and not _matches(name, allow) and name != ".gitattributes":
            num_left_out += 1
        else:
            files[name] = path.stat().st_size
    return Plan(files, refused, num_left_out)


def _files_in(folder: Path) -> Iterator[Path]:
    for above, folders, names in os.walk(folder):
        # Git's own files are never a part of the model.
        folders[:] = sorted(name for name in folders if name not in (".git", ".cache", "__pycache__"))
        yield from (Path(above, name) for name in sorted(names))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(part, p) for p in patterns for part in (name, name.rpartition("/")[2]))


def _reason_against(path: Path, name: str) -> str:
    """The reason why a file is not sent unasked, or `""`."""
    if _matches(name, SECRET):
        return translate("credentials, by its name")
    if _matches(name, STATE):
        return translate("state of a training")
    if path.suffix in _TEXTS and path.stat().st_size <= _MAX_SEARCHED:
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            if without_credentials(line) != line:
                return translate("line {number} has a key or a password", number=number)
    return ""


def check_plan(folder: Path, plan: Plan) -> None:
    """Raise ConfigError for a folder of which some files must not be sent, or none."""
    if plan.refused:
        found = "; ".join(f"{name}: {reason}" for name, reason in list(plan.refused.items())[:8])
        more = len(plan.refused) - 8
        raise ConfigError(
            translate(
                "{folder} is not sent: {found}{more}. Leave them out with --exclude NAME, or send them with "
                "--allow NAME",
                folder=folder,
                found=found,
                more=translate("; and {count} more", count=more) if more > 0 else "",
            )
        )
    if not plan.files:
        raise ConfigError(translate("{folder} has no files to send", folder=folder))


def check_folder_to_push(folder: Path) -> None:
    """Raise NotFoundError or ConfigError if that is no folder of a model or an adapter."""
    if not folder.is_dir():
        near = near_it(folder, folders=True)
        raise NotFoundError(translate("There is no model folder {path}{near}", path=folder, near=near))
    if not any(folder.rglob("*config.json")) and not any(folder.glob("*.gguf")):
        what = "{folder} is no folder of a model: make one of a checkpoint with xtuner convert pth_to_hf"
        raise ConfigError(translate(what, folder=folder))


def add_card(folder: Path) -> bool:
    """Write README.md into a folder without one; returns whether it did."""
    if (folder / "README.md").exists():
        return False
    adapter = folder / "adapter_config.json"
    is_adapter = adapter.is_file()
    base = read_json(adapter).get("base_model_name_or_path") if is_adapter else None
    write_card(folder, base, "adapter" if is_adapter else "model")
    return True


@dataclass(frozen=True)
class Target:
    """Where a folder goes."""

    repo: str
    revision: str = "main"
    public: bool = False
    message: str = "Upload by XTuner"


def push_to_huggingface(folder: Path, plan: Plan, target: Target) -> str:
    """Send the files in one commit; returns its address. Large files that are there are not sent again."""
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise ConfigError(translate("nobody is logged in to the hub: hf auth login, or set HF_TOKEN"))
    api = HfApi(library_name="xtuner")

    def send() -> str:
        made = api.create_repo(target.repo, private=not target.public, exist_ok=True)
        repo = made.repo_id
        if target.revision != "main":
            api.create_branch(repo, branch=target.revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[_literal(name) for name in plan.files],
            commit_message=target.message,
            revision=target.revision,
        )
        tail = "" if target.revision == "main" else f"/tree/{target.revision}"
        return f"{api.endpoint}/{repo}{tail}"

    return _explained(send, translate("the hub at {address}", address=api.endpoint))


def push_to_modelscope(folder: Path, plan: Plan, target: Target) -> str:
    """The same to ModelScope."""
    try:
        from modelscope.hub.api import HubApi
    except ImportError:
        command = install_extra("modelscope")
        raise ConfigError(
            translate("--modelscope needs the package modelscope: {command}", command=command)
        ) from None
    api: Any = HubApi()  # with the token of MODELSCOPE_API_TOKEN or of `modelscope login`

    def send() -> str:
        api.create_repo(
            target.repo,
            repo_type="model",
            visibility="public" if target.public else "private",
            license=license_of(folder) or None,
            exist_ok=True,
        )
        branch = target.revision if target.revision != "main" else "master"
        if branch != "master" and branch not in api.get_model_branches_and_tags(target.repo)[0]:
            what = "{repo} has no branch {branch}, and ModelScope's client makes none: make it on its page"
            raise ConfigError(translate(what, repo=target.repo, branch=branch))
        api.upload_folder(
            repo_id=target.repo,
            folder_path=str(folder),
            allow_patterns=[_literal(name) for name in plan.files],
            commit_message=target.message,
            revision=branch,
            # Its notes of what was sent would stay in the folder, and hold for any branch.
            use_cache=False,
        )
        return f"{api.endpoint}/models/{target.repo}"

    return _explained(send, "ModelScope")


def _literal(name: str) -> str:
    """A pattern that matches that name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _explained(send: Callable[[], str], where: str) -> str:
    """What `send` returns; its errors become one line without credentials."""
    try:
        return send()
    except XTunerError:
        raise
    except Exception as error:
        logger.debug("", exc_info=error)
        reason = without_credentials(" ".join(str(error).split()))
        raise ConfigError(
            translate(
                "{where} did not take it: {reason:.400} (the same command goes on with what is missing)",
                where=where,
                reason=reason or type(error).__name__,
            )
        ) from error
