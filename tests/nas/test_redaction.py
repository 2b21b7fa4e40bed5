"""What reports, cards and messages show of commands and data sets holds no secret of a URL."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.__main__ import main
from nas.redaction import card_command, card_name, public_text, public_word, split_patterns

URI = "webdataset:https://me:pw@host/a-{0..9}.tar?X-Sig=secret::https://host/val.tar?token=t#ignore=255"
TRICKY = st.lists(
    st.sampled_from(
        ["https://", "http://[", "postgresql://", "]", "[", "::", ":", "@", "/", "?", "#", "'", '"', " ", "a"]
    )
).map("".join)


@pytest.mark.parametrize(
    ("word", "clean"),
    [
        (URI, "webdataset:https://host/a-{0..9}.tar::https://host/val.tar#ignore=255"),
        ("--data=https://u:p w'd@h/a b.tar?s='1", "--data=https://h/a b.tar"),
        (
            "https://[2001:db8::1]:80/a.tar?s=1::http://u@[::1]/b.tar",
            "https://[2001:db8::1]:80/a.tar::http://[::1]/b.tar",
        ),
        ("http://me:a::b@host/a.tar", "http://host/a.tar"),
        ("https://h/a.tar?next=https://u:p@g/b&sig=s3cret", "https://h/a.tar"),
        ("https://https://u:p@h/a", "https://https://h/a"),
        ("HTTPS://me:pw@h/a?s=1", "HTTPS://h/a"),
        ("http://u:p@[::1/no-end?s=1", "http://[::1/no-end"),
        ("imagefolder:/a/b?c@d", "imagefolder:/a/b?c@d"),
        ("postgres://u:s3cret@h:1/n", "postgres://u@h:1/n"),
        ("--storage=postgresql://u:s3cret@h/n?sslmode=require", "--storage=postgresql://u@h/n?sslmode=require"),
        ("postgresql+psycopg://u@h/n?password=s3cret", "postgresql+psycopg://u@h/n"),
        ("postgresql://u:a/'b c@h/n?sslpassword=x&a=1", "postgresql://u@h/n?a=1"),
        ("postgresql://u:A@s3cret@h/n", "postgresql://u@h/n"),
        ("postgresql://u@s3cret@h/n", "postgresql://u@h/n"),
        ("postgresql:/u:A@s3cret@h/n", "postgresql:/u@h/n"),
        ("https:/u:s3cret@h/a?s=1", "https:/h/a"),
        ("postgresql://u@h/n?PASSWORD=s3cret&a=1", "postgresql://u@h/n?a=1"),
        ("postgresql://u:p@h/n,postgresql://u:p@h/m", "postgresql://u@h/n,postgresql://u@h/m"),
        ("runs/postgresql", "runs/postgresql"),
        ("--budget=3", "--budget=3"),
    ],
)
def test_a_word_loses_the_secrets_of_its_urls(word: str, clean: str) -> None:
    assert public_word(word) == clean
    assert public_word(clean) == clean


def test_urls_in_free_text_end_at_spaces_and_quotes() -> None:
    assert (
        public_text("x --data 'webdataset:https://u:p@h/a.tar?s=1' --seed 1")
        == "x --data 'webdataset:https://h/a.tar' --seed 1"
    )
    assert public_text('fetch "http://[::1]/a?s=1", then') == 'fetch "http://[::1]/a", then'
    assert public_text("at postgresql://u:s3cret@h/n it") == "at postgresql://u@h/n it"
    assert public_text("it's 'https://u:s3 s3cret@h/n' here") == "it's 'https://h/n' here"
    assert public_text("can't open https://h/a?s=s3cret it isn't there") == "can't open https://h/a it isn't there"
    assert public_text("no 'https://u:s3 s3cret@h/a' and \"postgresql://u:s3' s3cret@h/n\" it") == (
        "no 'https://h/a' and \"postgresql://u@h/n\" it"
    )
    assert (
        public_text("can't reach postgresql://u@h/n\nfor x@y isn't") == "can't reach postgresql://u@h/n\nfor x@y isn't"
    )


@pytest.mark.parametrize(
    "words",
    [
        *(["search", "--storag", f"{scheme}://u:s3' \"s3cret@h/n"] for scheme in ("postgresql", "https")),
        *([*words, "https://u:s3' \"s3cret@h/n"] for words in ([], ["search", "--budget"])),
        *(["search", "--budget", f"{scheme}://u:s3cret{99 * 'x'}@h/{99 * 'n'}"] for scheme in ("postgresql", "https")),
        *(["search", "--resume", f"{scheme}://u:s3cret{99 * 'x'}@h/{99 * 'n'}"] for scheme in ("postgresql", "https")),
        *(["search", flag, "https://u:s3,s3cret@h/n"] for flag in ("--teachers", "--baselines", "--objectives")),
        ["cache", "verify", "https://u:s3cret@h/set.json"],
        ["profile", "https://u:s3 s3cret@h/n"],
        ["search", "--teacher-weights", "a=https://u:s3 s3cret@h/n"],
    ],
    ids=str,
)
def test_no_refusal_shows_a_part_of_a_password(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(words)
    except SystemExit as ended:
        code = ended.code
    shown = "".join(capsys.readouterr())
    assert (code, "s3" in shown) == (2, False), shown


def test_patterns_are_separated_outside_the_hosts_of_urls() -> None:
    train, val = "https://u@[2001:db8::1]:8080/{0..9}.tar", "http://[::1]/val.tar"
    assert split_patterns(f"{train}::{val}") == [train, val]
    assert split_patterns(f"/a::b::{train}") == ["/a", "b", train]
    assert split_patterns(train) == [train]
    assert split_patterns("") == [""]


@given(st.one_of(st.text(), TRICKY))
def test_no_text_raises_and_what_holds_no_url_stays(text: str) -> None:
    for redact in (public_text, public_word, card_name, card_command):
        redact(text)
    assert "::".join(split_patterns(text)) == text
    if "://" not in text:
        assert public_text(text) == public_word(text) == text


@given(st.sampled_from(["host", "[::1]", "[2001:db8::1]:8080"]), TRICKY, TRICKY)
def test_no_text_around_a_url_uncovers_its_secrets(host: str, before: str, after: str) -> None:
    url = f"https://me:s3cret@{host}/a.tar?sig=s3cret"
    for text in (f"{before} {url} {after}", f"{before}'{url}'{after}"):
        assert "s3cret" not in public_text(text)
    assert "s3cret" not in public_word(f"{before}::{url}::{after}")


def test_a_card_tells_no_secret_of_a_url_and_no_folder_of_this_machine() -> None:
    url = "webdataset:https://me:word@[::1]/{00..09}.tar?X-Sig=abc::/home/me/val.tar"
    assert card_name(url) == "webdataset:https://[::1]/{00..09}.tar::.../val.tar"
    assert card_name("imagefolder:/home/me/photos") == "imagefolder:.../photos"
    assert card_name("builtin") == "builtin"
    paths = "--cache /home/me/cache --run=/home/me/r --teacher-weights hed=/home/me/h.pth"
    command = f"python -m nas.search --data '{url}' {paths}"
    assert card_command(command) == (
        "python -m nas.search --data 'webdataset:https://[::1]/{00..09}.tar::.../val.tar' --cache .../cache "
        "--run=.../r --teacher-weights hed=.../h.pth"
    )
    assert card_command("an 'open quote https://a:b@c") == "an ''\"'\"'open' quote https://c"
