"""The ledger page: what it holds, that it needs nothing from outside, and that it works in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tpg.claims import Claim, Finding, registry
from tpg.claims.run import Outcome
from tpg.cli.listing import estimators
from tpg.cli.main import main
from tpg.figures import run as gallery
from tpg.report.page import Picture, page, pictures

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-quic", "--virtual-time-budget=3000"]
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8ffff3f0005fe02fe"
    "0def46b80000000049454e44ae426082"
)


def outcome(label: str, status: str = "holds", **more: object) -> Outcome:
    given: dict[str, object] = {
        "label": label,
        "statement": f"<what> {label} & states",
        "status": status,
        "evidence": {"holds": "PROVED", "refuted": "REFUTED"}.get(status, "OPEN"),
        "seconds": 0.25,
        "why": "because 'so'",
        "shapes": 8,
        "findings": 3,
        "mutants": {"a": "somewhere", "b": "survived"},
        "error_probability": 1e-30,
        "needs": (),
    }
    return Outcome(**{**given, **more})  # type: ignore[arg-type]


OUTCOMES = [
    outcome("prop:b-first"),
    outcome("prop:a-second", "refuted", wording="it <is>", as_worded="refuted on x"),
    outcome("prop:length", wording="fine", as_worded="confirmed"),
]
NETWORKS = [outcome("neural:length", evidence="TESTED"), outcome("neural:cost")]
TRUE = Claim(
    "prop:true",
    "it is true",
    "test",
    (),
    lambda p: [Finding("1 = 1", True, "0")],
    {"1 = 2": lambda p: [Finding("1 = 2", False, "1")]},
)
SHOWN = [Picture("one", "prop:length", "Caption <one>", PIXEL), Picture("two", "neural:cost", "Two.", PIXEL)]
TOLD = {"05_length_and_more": "prop:b-firsts", "11_network": "see `neural:cost`", "12": "neural:costs, neural:cost-of"}


def whole() -> str:
    return page(OUTCOMES, SHOWN, estimators(), TOLD, NETWORKS, "two <networks>")


def row(text: str, label: str) -> str:
    """The line of the table that is about ``label``."""
    (found,) = [line for line in text.splitlines() if f"id='{label}'" in line]
    return found


def test_everything_is_on_the_page_and_nothing_is_fetched() -> None:
    text = whole()
    assert "{{" not in text
    for each in (*OUTCOMES, *NETWORKS):
        assert f"id='{each.label}'" in text
    assert "&lt;what&gt; prop:b-first &amp; states" in text  # escaped, not markup
    assert "<q>it &lt;is&gt;</q> <span class=refuted title='on x'>refuted</span>" in text
    assert "href='#figure-one'" in text
    assert "Caption &lt;one&gt; <a href='#prop:length'>" in text
    assert not re.search(r"(src|href)=['\"]?(https?:)?//", text)
    assert not re.search(r"@import|url\((?!data:)", text)
    assert json.loads(re.search(r'id="data">(.*?)</script>', text).group(1))[0]["label"] == "prop:b-first"  # type: ignore[union-attr]


def test_every_estimator_and_every_count_is_there() -> None:
    text = whole()
    assert all(f"<td>{row['name']}</td>" in text for row in estimators())
    assert "<b>4</b><span>holds</span>" in text
    assert "<b>1</b><span>refuted</span>" in text
    assert "<b>1</b><span>published wordings confirmed</span>" in text
    assert "<b>2</b><span>of all claims on a transformer</span>" in text
    assert "<td>1/2</td>" in text


def test_notebooks_are_told_by_label_or_by_the_first_word_of_a_claim_on_tables() -> None:
    text = whole()
    assert "<code>05_length_and_more</code>" in row(text, "prop:length")
    assert "_more" not in row(text, "prop:b-first")
    assert "_more" not in row(text, "neural:length")
    assert re.findall(r"<code>(\w+)</code>", row(text, "neural:cost")) == ["11_network"]


def test_samples_and_identities_are_wrong_in_different_ways() -> None:
    text = whole()
    assert "false alarm with probability at most 1e-30" in row(text, "neural:length")
    assert "; wrong with probability at most 1e-30" in row(text, "prop:b-first")


def test_without_networks_a_line_says_why_and_nothing_links_there() -> None:
    text = page(OUTCOMES, SHOWN, estimators(), TOLD, [], "left out: <torch> is missing")
    assert "left out: &lt;torch&gt; is missing" in text
    assert "of all claims on a transformer" not in text
    assert "Two. neural:cost</figcaption>" in text
    assert "href='#neural:cost'" in whole()
    targets = set(re.findall(r"id=['\"]([^'\"]+)['\"]", text))
    assert set(re.findall(r"href=['\"]#([^'\"]+)['\"]", text)) <= targets


def test_committed_pictures_are_found_without_running_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    found = pictures(gallery.folder())
    assert {"gamma_weights", "neural_learning_curves"} <= {each.name for each in found}
    assert all(each.png[:4] == b"\x89PNG" and each.caption and ":" in each.claim for each in found)


def test_pictures_say_what_their_files_say() -> None:
    (module,) = [gallery.load(path) for path in gallery.sources(gallery.folder()) if path.stem == "gamma_weights"]
    (found,) = [each for each in pictures(gallery.folder()) if each.name == "gamma_weights"]
    assert (found.claim, found.caption) == (module.CLAIM, module.CAPTION)


def test_the_command_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {registry.GROUP: {"prop:true": TRUE}, registry.NEURAL: {"neural:true": replace(TRUE, label="neural:true")}}
    monkeypatch.setattr(registry, "load", lambda group=registry.GROUP: known[group])
    assert main(["report", "--quick", "--out", str(tmp_path / "new")]) == 0
    assert "1 claims, 1 on networks, " in " ".join(capsys.readouterr().out.split())
    text = (tmp_path / "new" / "index.html").read_text(encoding="utf-8")
    assert "id='prop:true'" in text
    assert "PROVED" in row(text, "prop:true")
    assert "MEASURED" in row(text, "neural:true")  # three cases, in float64
    assert "On a transformer of 2 layers, width 8" in text
    (tmp_path / "file").touch()
    assert main(["report", "--quick", "--out", str(tmp_path / "file")]) == 2
    assert re.match(r"error: --out '.*' cannot be written: .*: name a folder", capsys.readouterr().err)


def test_without_torch_the_page_is_there_and_says_what_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(group: str = registry.GROUP) -> Any:
        if group == registry.NEURAL:
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return {"prop:true": TRUE}

    monkeypatch.setattr(registry, "load", load)
    assert main(["report", "--quick", "--out", str(tmp_path)]) == 0
    said = "Claims on a transformer are left out: torch is missing: pip install 'tpg[neural]'"
    assert said in " ".join(capsys.readouterr().out.split())
    assert said.replace("'", "&#x27;") in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_claim_that_falls_on_networks_decides_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    false = replace(TRUE, label="neural:false", check=lambda p: [Finding("1 = 2", False, "1")])
    known = {registry.GROUP: {"prop:true": TRUE}, registry.NEURAL: {"neural:false": false}}
    monkeypatch.setattr(registry, "load", lambda group=registry.GROUP: known[group])
    assert main(["report", "--quick", "--out", str(tmp_path)]) == 1


PROBE = """<script>
const labels = () => [...document.querySelectorAll("#claims-table tbody tr")]
  .filter(row => !row.hidden).map(row => row.cells[0].textContent).join(",");
const seen = [labels()];
const head = document.querySelector("#claims-table th");
head.click(); seen.push(labels());
head.click(); seen.push(labels());
const box = document.querySelector("input[data-for=claims-table]");
box.value = "refuted a-second"; box.dispatchEvent(new Event("input")); seen.push(labels());
const image = document.querySelector("figure img");
seen.push(String(image.complete && image.naturalWidth > 0));
document.title = seen.join("|");
</script></html>"""


@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine: `apt-get install chromium` to run it")
def test_a_browser_sorts_filters_and_shows(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(whole().replace("</html>", PROBE), encoding="utf-8")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    dumped = subprocess.run(
        [BROWSER, *FLAGS, profile, "--dump-dom", file.as_uri()], capture_output=True, timeout=120, check=True
    ).stdout.decode()
    title = re.search(r"<title>(.*?)</title>", dumped)
    assert title is not None
    asked = title.group(1).split("|")
    assert asked == [
        "prop:b-first,prop:a-second,prop:length",
        "prop:a-second,prop:b-first,prop:length",
        "prop:length,prop:b-first,prop:a-second",
        "prop:a-second",
        "true",
    ]
    shot = tmp_path / "shot.png"
    subprocess.run(
        [BROWSER, *FLAGS, profile, "--window-size=1300,1600", f"--screenshot={shot}", file.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert shot.stat().st_size > 20_000  # not a blank page
