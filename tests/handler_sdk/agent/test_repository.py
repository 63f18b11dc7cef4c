"""How the agent reads repositories, and keeps what it may read them with to itself."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from handler_sdk.agent import repository as repository_
from handler_sdk.agent.errors import DeploymentError
from handler_sdk.agent.repository import Repository

from . import repositories
from .repositories import GitServer

TOKEN = "token-7d1f9e"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----"


@pytest.fixture
def git_server(repository: repositories.Repository) -> Iterator[GitServer]:
    server = GitServer(repository.folder.parent, TOKEN)
    yield server
    server.close()


async def test_is_read_over_http_with_a_token(
    git_server: GitServer, repository: repositories.Repository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    commit = repository.commit({"main.py": "x"})
    caplog.set_level("DEBUG")
    for number, url in enumerate((git_server.url, git_server.url.replace("//", f"//x-access-token:{TOKEN}@"))):
        found = Repository(f"{url}/code/.git", "main", "" if number else TOKEN)
        assert await found.newest() == (commit, "refs/heads/main")
        assert await found.fetch("refs/heads/main", tmp_path / str(number)) == commit
        assert (tmp_path / str(number) / "main.py").read_text() == "x"
        kept = [path for path in (tmp_path / str(number)).rglob("*") if path.is_file()]
        assert not any(TOKEN.encode() in path.read_bytes() for path in kept)
        assert TOKEN not in found.url
    assert TOKEN not in caplog.text
    assert git_server.served


async def test_without_its_token_is_refused(git_server: GitServer, repository: repositories.Repository) -> None:
    repository.commit({})
    for token in ("", "another"):
        with pytest.raises(DeploymentError, match="git failed with status 128"):
            await Repository(f"{git_server.url}/code/.git", "main", token).newest()
    assert not git_server.served


async def test_the_token_is_for_its_server_alone_and_on_no_command_line(
    git_server: GitServer, repository: repositories.Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A git of the test's own, before the real one, notes how it is called and by whom."""
    repository.commit({})
    seen = tmp_path / "seen"
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncat /proc/$$/cmdline >> {seen}\nexec {_which("git")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RUNLANE_WORKER_KEY", "rlw_secret")
    await Repository(f"{git_server.url}/code/.git", "main", TOKEN).newest()
    assert "ls-remote" in seen.read_text()
    assert TOKEN not in seen.read_text()
    with Repository(f"{git_server.url}/code/.git", "main", TOKEN)._environment() as environment:
        assert "rlw_secret" not in environment.values()
        named = [value for name, value in environment.items() if re.match(r"GIT_CONFIG_KEY_\d", name)]
        assert f"credential.{git_server.url}.helper" in named


@pytest.mark.parametrize("given", ["file", "text", "token"])
async def test_is_read_over_ssh_with_a_deploy_key(
    given: str, repository: repositories.Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ssh of the test's own checks how it is called, and runs on this machine what it is to run elsewhere."""
    commit = repository.commit({})
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f"""#!/bin/sh
echo "$@" >> {tmp_path}/called
while [ "$1" != -i ]; do shift; done
stat -c %a "$2" >> {tmp_path}/modes
cat "$2" >> {tmp_path}/keys
while [ $# -gt 1 ]; do shift; done
exec sh -c "$1"
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    file = tmp_path / "key file"
    file.write_text(KEY)
    file.chmod(0o600)
    token, key = (KEY, "") if given == "token" else ("", KEY if given == "text" else str(file))
    found = Repository(f"git@example.test:{repository.folder}", "main", token, key)
    assert await found.newest() == (commit, "refs/heads/main")
    called = (tmp_path / "called").read_text()
    assert "IdentitiesOnly=yes" in called
    assert "StrictHostKeyChecking=accept-new" in called
    assert (tmp_path / "modes").read_text() == "600\n"
    assert (tmp_path / "keys").read_text().strip() == KEY
    key_file = re.search(r"-i (\S+)", called)
    assert key_file
    assert given == "file" or not is_there(key_file[1])


@pytest.mark.parametrize(
    "url",
    [
        "--upload-pack=touch /tmp/x",
        "ext::sh -c 'touch /tmp/x'",
        "git://example.test/x",
        "/srv/code",
        "-oProxyCommand=x:y",
        "https://example.test/\nx",
        "http://[",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(DeploymentError):
        Repository(url, "main")


def test_a_token_is_not_sent_in_the_clear() -> None:
    with pytest.raises(DeploymentError, match="is not encrypted"):
        Repository("http://example.test/x", "main", TOKEN)
    with pytest.raises(DeploymentError, match="is not encrypted"):
        Repository(f"http://user:{TOKEN}@example.test/x", "main")
    Repository("http://example.test/x", "main")


async def test_a_tag_will_do_and_hooks_do_not_run(
    repository: repositories.Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = repository.commit({})
    repository.git("tag", "v1")
    templates = tmp_path / "templates" / "hooks"
    templates.mkdir(parents=True)
    (templates / "post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (templates / "post-checkout").chmod(0o755)
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(templates.parent))
    found = Repository(repository.url, "v1")
    revision = await found.newest()
    assert revision == (commit, "refs/tags/v1")
    assert await found.fetch(revision.reference, tmp_path / "code") == commit
    assert not (tmp_path / "ran").exists()
    assert repository_.Revision(commit, "x").commit == commit


async def test_a_tag_with_a_text_is_the_commit_that_it_names(
    repository: repositories.Repository, tmp_path: Path
) -> None:
    """Else a follower would always find something new."""
    commit = repository.commit({})
    repository.git("tag", "--annotate", "--message", "of this week", "v1")
    found = Repository(repository.url, "v1")
    assert await found.newest() == (commit, "refs/tags/v1")
    assert await found.fetch("refs/tags/v1", tmp_path / "code") == commit


def is_there(path: str) -> bool:
    return os.path.exists(path)


def _which(program: str) -> str:
    return next(f"{folder}/{program}" for folder in os.environ["PATH"].split(":") if Path(folder, program).exists())
