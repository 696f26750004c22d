"""Laws of how the page behind a signed link looks: on a phone and on a desk, for everybody.

A real browser shows the page as it is served; axe looks at it there. Without a Chromium it is skipped.
"""

import json
import re
import shutil
import subprocess
from html import unescape
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.test import Client

from tasks import approvals
from tests.tasks.test_signed import asked, path, press, somebody

pytestmark = pytest.mark.django_db

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), "")
PHONE, DESK = 390, 1280
STATES = ("asked", "unfolded", "refused", "previewed", "thanked", "spent")
# The frame with the mail runs no scripts, so axe cannot look into it.
LOOK = """
document.querySelectorAll("details").forEach((one) => { one.open = OPEN; });
axe.run(document, { iframes: false }).then((found) => {
  const told = document.createElement("pre");
  told.id = "found";
  told.textContent = JSON.stringify({
    width: innerWidth,
    needed: document.documentElement.scrollWidth,
    wrong: found.violations.map((one) => [one.id, one.impact, one.nodes.map((node) => node.html)]),
    looked: found.passes.length,
  });
  document.body.append(told);
});
"""


def seen_in_browser(page: str, folder: Path, width: int, *, unfolded: bool = False) -> dict[str, Any]:
    """Return what axe finds on a page of this width, with its style and without its other files."""
    for name in re.findall(r'<link rel="stylesheet" href="/static/([^"]+)">', page):
        style = Path(str(finders.find(name))).read_text()
        page = page.replace(f'<link rel="stylesheet" href="/static/{name}">', f"<style>{style}</style>")
    page = re.sub(r'<script src="[^"]*" defer></script>', "", page)
    page = re.sub(r'(<iframe [^>]*?) src="[^"]*"', r'\1 srcdoc="<p>Hello</p>"', page)
    axe = (resources.files("axe_core_python") / "axe.min.js").read_text()
    look = LOOK.replace("OPEN", "true" if unfolded else "false")
    scripts = f"<script>{axe}</script><script>{look}</script></body>"
    file = folder / "page.html"
    file.write_text(page.replace("</body>", scripts), encoding="utf-8")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += [f"--window-size={width},900", "--virtual-time-budget=20000", "--dump-dom", file.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="found">(.*?)</pre>', shown, re.S)
    assert found is not None, "axe has said nothing"
    told: dict[str, Any] = json.loads(unescape(found[1]))
    return told


@pytest.mark.skipif(not BROWSER, reason="NOT LOOKED AT: there is no Chromium on this machine")
@pytest.mark.parametrize(("what", "width"), [*((state, PHONE) for state in STATES), ("unfolded", DESK)])
def test_axe_finds_nothing_on_the_page_and_nothing_sticks_out(what: str, width: int, tmp_path: Path) -> None:
    approval, ana, phone = asked(), somebody("ana"), Client()
    address = path(approval, ana)
    if what == "spent":
        approvals.answer(approval.pk, "decline", by=somebody("bob"))
    response = {
        "refused": lambda: press(phone, address, choice="edit", subject="Hello", text="{{ name }}"),
        "previewed": lambda: press(phone, address, preview="1", subject="Hello", text="x" * 400),
        "thanked": lambda: press(phone, address, choice="approve"),
    }.get(what, lambda: phone.get(address))()

    found = seen_in_browser(
        response.content.decode(), tmp_path, width, unfolded=what in ("unfolded", "previewed")
    )

    assert found["wrong"] == []
    assert found["looked"] > 5
    assert found["needed"] <= found["width"]
