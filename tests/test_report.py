"""The ledger page: what it holds, that it needs nothing from outside, and that it works in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

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
SHOWN = [Picture("one", "prop:length", "Caption <one>", PIXEL)]


def whole() -> str:
    return page(OUTCOMES, SHOWN, estimators(), ["05_length"])


def test_everything_is_on_the_page_and_nothing_is_fetched() -> None:
    text = whole()
    assert "{{" not in text
    for each in OUTCOMES:
        assert f"id='{each.label}'" in text
    assert "&lt;what&gt; prop:b-first &amp; states" in text  # escaped, not markup
    assert "<q>it &lt;is&gt;</q> <span class=refuted title='on x'>refuted</span>" in text
    assert "href='#figure-one'" in text
    assert "Caption &lt;one&gt; <a href='#prop:length'>" in text
    assert "<code>05_length</code>" in text
    assert not re.search(r"(src|href)=['\"]?(https?:)?//", text)
    assert not re.search(r"@import|url\((?!data:)", text)
    assert json.loads(re.search(r'id="data">(.*?)</script>', text).group(1))[0]["label"] == "prop:b-first"  # type: ignore[union-attr]


def test_every_estimator_and_every_count_is_there() -> None:
    text = whole()
    assert all(f"<td>{row['name']}</td>" in text for row in estimators())
    assert "<b>2</b><span>holds</span>" in text
    assert "<b>1</b><span>refuted</span>" in text
    assert "<b>1</b><span>published wordings confirmed</span>" in text
    assert "<td>1/2</td>" in text


def test_committed_pictures_are_found() -> None:
    found = pictures(gallery.folder())
    assert "gamma_weights" in [each.name for each in found]
    assert all(each.png[:4] == b"\x89PNG" and each.caption and ":" in each.claim for each in found)


def test_the_command_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = [Finding("1 = 1", True, "0")], [Finding("1 = 2", False, "1")]
    claim = Claim("prop:true", "it is true", "test", (), lambda p: right, {"1 = 2": lambda p: wrong})
    monkeypatch.setattr(registry, "load", lambda: {"prop:true": claim})
    assert main(["report", "--quick", "--out", str(tmp_path / "new")]) == 0
    assert "1 claims" in capsys.readouterr().out
    assert "id='prop:true'" in (tmp_path / "new" / "index.html").read_text(encoding="utf-8")
    (tmp_path / "file").touch()
    assert main(["report", "--quick", "--out", str(tmp_path / "file")]) == 2
    assert re.match(r"error: --out '.*' cannot be written: .*: name a folder", capsys.readouterr().err)


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
