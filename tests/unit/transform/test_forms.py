from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.transform.forms import from_form, to_form
from sidecar.transform.jsonbody import InvalidBody, parse


@pytest.mark.parametrize(
    ("form", "document"),
    [
        (b"a=1&b=x+y%26", '{"a":"1","b":"x y&"}'),
        (b"a=1&b=2&a=3&a=", '{"a":["1","3",""],"b":"2"}'),
        (b"a&=b&&", '{"a":"","":"b"}'),
        (b"caf%C3%A9=%E2%82%AC", '{"café":"€"}'),
        (b"", "{}"),
    ],
)
def test_a_form_as_json(form: bytes, document: str) -> None:
    assert from_form(form).encoded().decode() == document


@pytest.mark.parametrize(
    ("document", "form"),
    [
        ('{"a":"1","b":"x y&"}', b"a=1&b=x+y%26"),
        ('{"a":[1.10,"2",true,null],"b":-5,"c":null}', b"a=1.10&a=2&a=true&b=-5"),
        ('{"d":12345678901234567890123}', b"d=12345678901234567890123"),
        ('{"a": 1 , "é":false}', b"a=1&%C3%A9=false"),
        ("{}", b""),
    ],
)  # fmt: skip
def test_json_as_a_form(document: str, form: bytes) -> None:
    assert to_form(parse(document.encode())) == form


@pytest.mark.parametrize("document", ["[1]", "5", '{"a":{"b":1}}', '{"a":[[1]]}', '{"a":[{}]}'])
def test_what_a_form_cannot_say_is_invalid(document: str) -> None:
    with pytest.raises(InvalidBody):
        to_form(parse(document.encode()))


@pytest.mark.parametrize("form", [b"a=%ff", b"%ff=1", b"a=1&" * 1001])
def test_a_form_that_cannot_be_read_is_invalid(form: bytes) -> None:
    with pytest.raises(InvalidBody):
        from_form(form)


TEXTS = st.text(max_size=5).filter(lambda text: text.isprintable())


@given(st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS, min_size=2, max_size=3), max_size=5))
def test_there_and_back(fields: dict[str, str | list[str]]) -> None:
    data = json.dumps(fields, ensure_ascii=False).encode()
    assert json.loads(from_form(to_form(parse(data))).encoded()) == fields
