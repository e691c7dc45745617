"""The page of ``inspect``: everything in it, nothing of it alive."""

from html.parser import HTMLParser

ATTACK = '</pre><script>document.title="pwned"</script><img src="http://leak.invalid/x" onerror="alert(1)">&lt;'


class Parsed(HTMLParser):
    """Tags, the text of supervised spans, and whether anything could fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.supervised: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self._inside = tag == "span" and ("class", "supervised") in attributes
        if self._inside:
            self.supervised.append("")

    def handle_endtag(self, tag) -> None:
        self._inside = False

    def handle_data(self, data) -> None:
        if self._inside:
            self.supervised[-1] += data


def test_supervised_text_is_marked_and_hostile_text_stays_text(samples_page):
    parsed = Parsed(samples_page(["plain", ATTACK, "a\x1b[1mb"]).read_text())
    expected = {"plain<|im_end|>", f"{ATTACK}<|im_end|>", "a␛[1mb<|im_end|>"}
    assert expected <= set(parsed.supervised)
    assert {"script", "img", "link", "iframe", "object", "embed", "base", "form"}.isdisjoint(parsed.tags)
    assert not any(name.startswith("on") or name in {"src", "href"} for name in parsed.attributes)


def test_what_was_asked_for_is_there_and_no_more(samples_page):
    parsed = Parsed(samples_page(["one", "two", "three"], "--grep", "t[wh]", "--limit", "9").read_text())
    assert {text for text in parsed.supervised if "im_end" in text} == {"two<|im_end|>", "three<|im_end|>"}


def test_nothing_found_is_said(samples_page, capsys):
    assert "Nothing matches." in samples_page(["one"], "--grep", "nowhere").read_text()
    assert "nothing in split train matches" in capsys.readouterr().err
