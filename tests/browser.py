"""Somebody at a browser: keeps cookies, fills in the forms that a page has, follows where it is sent."""

import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from html import unescape
from http.client import HTTPResponse
from http.cookiejar import Cookie, CookieJar
from urllib.parse import urlencode, urlsplit

HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Page:
    """What came of a request, after all redirects."""

    status: int
    url: str
    html: str

    @property
    def words(self) -> str:
        """Return what is read on the page, on one line."""
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", self.html)).split())

    @property
    def hidden(self) -> dict[str, str]:
        """Return the hidden fields of its forms, which go along with what is sent from it."""
        return dict(HIDDEN.findall(self.html))


class Browser:
    """One browser at one site; `get` and `head` take any address of it, with the site or without."""

    def __init__(self, site: str) -> None:
        self.site = site
        self._cookies = CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._cookies))

    def get(self, address: str) -> Page:
        """Open a page."""
        return self._fetched("GET", address)

    def head(self, address: str) -> Page:
        """Ask how a page is, as a scanner of links does."""
        return self._fetched("HEAD", address)

    def sends(self, page: Page, address: str = "", /, **fields: str) -> Page:
        """Send the form of a page with these fields, to where the page came from or to another address."""
        return self._fetched("POST", address or page.url, urlencode({**page.hidden, **fields}).encode())

    def resumes(self, session: str) -> "Browser":
        """Come back with the session of a login that was made before."""
        host = urlsplit(self.site).hostname or ""
        where = (None, False, host, False, False, "/", True)
        self._cookies.set_cookie(Cookie(0, "sessionid", session, *where, False, None, False, None, None, {}))
        return self

    def logs_in(self, name: str, password: str) -> "Browser":
        """Log in as the page for it asks."""
        page = self.sends(self.get("/admin/login/?next=/admin/"), username=name, password=password)
        assert "/login/" not in page.url, f"{name} could not log in"
        return self

    def _fetched(self, method: str, address: str, body: bytes | None = None) -> Page:
        where = address if address.startswith("http") else self.site + address
        request = urllib.request.Request(where, body, method=method)
        try:
            with self._opener.open(request, timeout=30) as answer:
                return _page(answer)
        except urllib.error.HTTPError as error:
            return _page(error)


def _page(answer: HTTPResponse | urllib.error.HTTPError) -> Page:
    return Page(int(answer.status or 0), answer.url, answer.read().decode(errors="replace"))
