"""What a worker reads from its environment."""

import pytest

from handler_sdk.settings import Settings, SettingsError


class TestSettings:
    @pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v2", "http://h:1/v2/"])
    def test_take_the_gateways_address_with_and_without_its_path(self, url: str) -> None:
        assert Settings.of({"RUNLANE_URL": url, "RUNLANE_ENDPOINT": "e"}).url == "http://h:1"

    @pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
    def test_refuse_impossible_times(self, seconds: str) -> None:
        with pytest.raises(SettingsError, match="RUNLANE_STOP_GRACE_SECONDS must be a number of seconds"):
            Settings.of({"RUNLANE_URL": "u", "RUNLANE_ENDPOINT": "e", "RUNLANE_STOP_GRACE_SECONDS": seconds})

    @pytest.mark.parametrize("name", ["", "redis", "http"])
    def test_take_the_links_that_there_are(self, name: str) -> None:
        assert Settings.of({"RUNLANE_URL": "u", "RUNLANE_ENDPOINT": "e", "RUNLANE_LINK": name}).link == name

    @pytest.mark.parametrize(("value", "ships"), [("", True), ("on", True), ("off", False)])
    def test_say_whether_what_is_printed_is_told(self, value: str, ships: bool) -> None:
        environment = {"RUNLANE_URL": "u", "RUNLANE_ENDPOINT": "e", "RUNLANE_SHIP_LOGS": value}
        assert Settings.of(environment).ships_logs is ships
        with pytest.raises(SettingsError, match="RUNLANE_SHIP_LOGS must be on or off, not 'no'"):
            Settings.of(environment | {"RUNLANE_SHIP_LOGS": "no"})

    def test_refuse_others(self) -> None:
        with pytest.raises(
            SettingsError, match="RUNLANE_LINK must be redis, http, or empty for whichever works, not 'pigeon'"
        ):
            Settings.of({"RUNLANE_URL": "u", "RUNLANE_ENDPOINT": "e", "RUNLANE_LINK": "pigeon"})


@pytest.mark.parametrize(("text", "queues"), [("", ()), ("high", ("high",)), (" high, low,,", ("high", "low"))])
def test_queues(text: str, queues: tuple[str, ...]) -> None:
    environment = {"RUNLANE_URL": "u", "RUNLANE_ENDPOINT": "e", "RUNLANE_QUEUES": text}
    assert Settings.of(environment).queues == queues
