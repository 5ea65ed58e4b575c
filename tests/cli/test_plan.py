"""`plan`: the table, the lines to run, exit codes."""

from __future__ import annotations

import json
import shlex

import pytest

from edge_emotion.cli.app import app, run


def test_the_line_it_prints_is_one_that_analyze_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--device", "orin-nano-8g", "--budget", "5.5GiB"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "edge-emotion analyze" in line)
    command, bound, *_ = app.parse_args(shlex.split(line)[1:], exit_on_error=False)
    assert command.__name__ == "analyze"
    assert bound.arguments["encoder"] == "int8"
    assert bound.arguments["llm"] == "int8"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--device", "agx-orin-64g", "--size", "7b", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pick"]["llm"] == "Q6_K"
    assert report["pick"]["peak_bytes"] == max(report["pick"]["run_bytes"], report["pick"]["build_peak_bytes"])
    assert report["device"]["power_modes"]["MAXN"] == 0


def test_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--device", "orin-nano-8g", "--budget", "1GiB", "--size", "7b"]) == 1
    assert "nothing fits" in capsys.readouterr().out


def test_without_the_desktop_more_fits(capsys: pytest.CaptureFixture[str]) -> None:
    fitting = []
    for extra in ([], ["--headless"]):
        assert run(["plan", "--device", "orin-nano-8g", "--size", "3b", "--json", *extra]) == 0
        fitting.append(sum(item["fits"] for item in json.loads(capsys.readouterr().out)["combinations"]))
    assert fitting[0] < fitting[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "toaster"], "unknown device 'toaster'"),
        (["--budget", "much"], "no size"),
        (["--size", "3b", "--bundle", "nano"], "--size"),
        (["--window", "0"], "above 0"),
        (["--device", "cpu-4g", "--headless"], "Jetson"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan"]) == 0
    assert "-> " in capsys.readouterr().out
