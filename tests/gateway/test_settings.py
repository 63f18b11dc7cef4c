import dataclasses
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.access.keys import digest, hashed
from gateway.cli import main
from gateway.errors import StartupError
from gateway.settings import FIELDS, Settings, environment_name, load

SECRETS = {
    "redis_url": "redis://:hidden-1@127.0.0.1", "worker_redis_url": "redis://x:hidden-2@h",
    "api_keys": "name:hidden-3,hidden-4", "worker_keys": "e:hidden-5", "admin_keys": "hidden-6",
    "runqy_api_key": "hidden-7", "runqy_client_api_key": "hidden-8", "runqy_worker_api_key": "hidden-9",
    "rune_api_tokens": "t:hidden-10", "vault_master_keys": "hidden-11,hidden-12",
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runlane.toml"


def show(**environment: str) -> str:
    result = CliRunner().invoke(main, ["settings"], env=environment, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_defaults() -> None:
    assert load({}) == Settings()
    assert (Settings().host, Settings().port, Settings().insecure) == ("127.0.0.1", 8000, False)


def test_the_limits_are_the_contract_s() -> None:
    assert (Settings().run_limit, Settings().runsync_limit, Settings().chunk_limit) == (10**7, 2 * 10**7, 10**6)
    assert (Settings().run_retention_seconds, Settings().runsync_retention_seconds) == (1800, 60)


def test_the_environment_counts_more_than_the_file_and_the_command_line_most(file: Path) -> None:
    file.write_text('host = "file"\nport = 1\nprocesses = 4\n')
    found = load({"RUNLANE_PORT": "2", "RUNLANE_PROCESSES": "5"}, file, processes=6, host=None, endpoints=())
    assert (found.host, found.port, found.processes, found.endpoints) == ("file", 2, 6, ())


def test_an_empty_variable_is_none(file: Path) -> None:
    file.write_text("port = 1\n")
    assert load({"RUNLANE_PORT": ""}, file).port == 1


def test_the_environment_may_name_the_file(file: Path) -> None:
    file.write_text("port = 1234\n")
    assert load({"RUNLANE_CONFIG": str(file)}).port == 1234


def test_a_file_with_every_kind_of_value(file: Path) -> None:
    file.write_text('redis_url = "redis://x"\nport = 1\ninsecure = true\nbody_seconds = 2\napi_keys = ["a", "b:c"]\n')
    assert load({}, file) == Settings(
        redis_url="redis://x", port=1, insecure=True, body_seconds=2.0, api_keys=(hashed("a"), hashed("b:c"))
    )


@pytest.mark.parametrize("text", ["1", "true", "YES", "on"])
def test_true_in_the_environment(text: str) -> None:
    assert load({"RUNLANE_INSECURE": text}).insecure is True


@pytest.mark.parametrize("text", ["0", "False", "no", "OFF"])
def test_false_in_the_environment(text: str) -> None:
    assert load({"RUNLANE_INSECURE": text}).insecure is False


def test_a_list_in_the_environment() -> None:
    assert load({"RUNLANE_ENDPOINTS": " a, b/c ,,d"}).endpoints == ("a", "b/c", "d")


@pytest.mark.parametrize("text", [",", " ", " , ,"])
def test_no_master_key_where_one_is_meant(text: str, file: Path) -> None:
    file.write_text("vault_master_keys = []\n")
    for environment, read in (({"RUNQY_VAULT_MASTER_KEY": text}, None), ({}, file)):
        with pytest.raises(StartupError, match="RUNQY_VAULT_MASTER_KEY"):
            load(environment, read)


def test_of_keys_only_digests_are_kept() -> None:
    found = load({"RUNLANE_API_KEYS": "a,b:c", "RUNQY_API_KEY": "d", "RUNE_API_TOKENS": "t:e"})
    assert found.api_keys == (f"sha256:{digest('a')}", f"b:sha256:{digest('c')}")
    assert (found.runqy_api_key, found.rune_api_tokens) == (f"sha256:{digest('d')}", (f"t:sha256:{digest('e')}",))


@pytest.mark.parametrize(
    ("text", "says"),
    [("prot = 1", "prot"), ("port = '1'", "port"), ("port = 1.5", "port"), ("port = true", "port"),
     ("insecure = 1", "insecure"), ("api_keys = 'a'", "api_keys"), ("api_keys = [1]", "api_keys"),
     ("body_seconds = 'x'", "body_seconds"), ("host = ['a']", "host"), ("port =", "cannot read"),
     ("[host]\na = 1", "host"), ("port = 1\nport = 2", "cannot read")],
)  # fmt: skip
def test_a_file_that_is_wrong(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(StartupError, match=says) as caught:
        load({}, file)
    assert str(file) in str(caught.value)


def test_a_file_that_cannot_be_read(file: Path) -> None:
    for content in (None, b"\xff\xfe"):
        if content:
            file.write_bytes(content)
        with pytest.raises(StartupError, match="cannot read the settings"):
            load({}, file)


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "abc"), ("PORT", "1.5"), ("INSECURE", "maybe"), ("BODY_SECONDS", "long"), ("RUN_LIMIT", "10MB")],
)
def test_a_variable_that_is_wrong(name: str, value: str) -> None:
    with pytest.raises(StartupError, match=f"RUNLANE_{name}") as caught:
        load({f"RUNLANE_{name}": value})
    assert value in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("LOG_LEVEL", "loud"), ("PORT", "70000"), ("PORT", "-1"), ("PROCESSES", "0"), ("RUN_LIMIT", "-1"),
     ("BODY_SECONDS", "0"), ("BODY_SECONDS", "nan"), ("RUN_RETENTION_SECONDS", "-5")],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused_at_once(name: str, value: str) -> None:
    with pytest.raises(StartupError, match=f"RUNLANE_{name}|{name.lower()}"):
        load({f"RUNLANE_{name}": value})


def test_the_list_has_every_setting() -> None:
    shown = show()
    assert set(FIELDS) == {field.name for field in dataclasses.fields(Settings)}
    for name, field in FIELDS.items():
        assert f"\n{name} = " in f"\n{shown}"
        assert f"{environment_name(name)}: {field.metadata['help']}" in shown
        assert field.metadata["help"]


def test_the_list_shows_values_and_no_secrets() -> None:
    shown = show(RUNLANE_PORT="1234", **{environment_name(name): value for name, value in SECRETS.items()})
    assert "port = 1234" in shown
    assert "hidden" not in shown
    assert all(f"{name} = (set)" in shown for name in SECRETS)


def test_secrets_are_not_shown_with_the_settings() -> None:
    found = load({environment_name(name): value for name, value in SECRETS.items()})
    assert found.vault_master_keys == ("hidden-11", "hidden-12")
    assert "hidden" not in repr(found)


def test_a_wrong_setting_in_the_list() -> None:
    result = CliRunner().invoke(main, ["settings"], env={"RUNLANE_PORT": "x"})
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "RUNLANE_PORT" in result.stderr


def secret_fields() -> list[Any]:
    return [name for name, field in FIELDS.items() if field.metadata["secret"]]


def test_what_is_secret() -> None:
    assert set(secret_fields()) == set(SECRETS)
