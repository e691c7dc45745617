"""Whatever a template does with contents: what is written is what ``apply_chat_template`` writes."""

import pytest
from chat_templates import CHATML_MARKED, LLAMA2, MISTRAL
from tiny import CHATML, tiny_tokenizer

from mftcoder.data.plain_templates import writes_only
from mftcoder.data.records import Conversation, Message
from mftcoder.data.rendering import Renderer
from mftcoder.data.spans import template_messages

TURN = "{{ m.role + '\\n' + m.content + '<|im_end|>' }}"
WRITING = {
    "stripped": "{{ m.role + '\\n' + (m.content | trim) + '<|im_end|>' }}",
    "named": "{% set c = m['content'].strip() %}{{ m.role }}{{ '\\n' }}{{ c }}{{ '<|im_end|>' }}",
    "typed": "{% if m.content is string %}" + TURN + "{% endif %}",
    "of roles": "{% if m.role in ['user', 'assistant'] %}" + TURN + "{% endif %}",
}
TOUCHING = {  # of some contents each makes something else
    "in": TURN + "{% if 'zap' in m.content %}!{% endif %}",
    "in a text": TURN + "{% if m.content in 'no zap' %}!{% endif %}",
    "equal": TURN + "{% if m.content == 'zap' %}!{% endif %}",
    "equal, other way": TURN + "{% if 'zap' == m.content %}!{% endif %}",
    "one of": TURN + "{% if m.content in ['zap'] %}!{% endif %}",
    "truth": TURN + "{% if not m.content.strip() %}!{% endif %}",
    "length": TURN + "{% if m.content | length == 3 %}!{% endif %}",
    "a slice": TURN + "{% if m.content[:3] == 'zap' %}!{% endif %}",
    "startswith": TURN + "{% if m.content.startswith('zap') %}!{% endif %}",
    "another text's method": TURN + "{% if 'zapper'.startswith(m.content) %}!{% endif %}",
    "a swallowed error": TURN + "{% if m.content is sequence %}{% endif %}{{ m.content.split('zap') | length }}",
    "replace": "{{ m.role + '\\n' + (m.content | replace('zap', 'zip')) + '<|im_end|>' }}",
    "replace, a method": "{{ m.role + '\\n' + m.content.replace('zap', 'zip') + '<|im_end|>' }}",
    "joined, then looked at": TURN + "{% set c = m.role ~ m.content %}{% if 'rzap' in c %}!{% endif %}",
    "written, then looked at": TURN + "{% set c %}{{ m.content }}{% endset %}{% if 'zap' in c %}!{% endif %}",
    "a macro": TURN + "{% macro w(c) %}{{ c }}{% endmacro %}{% if 'zap' in w(m.content) %}!{% endif %}",
    "a format": TURN + "{% if '%s' % m.content == 'zap' %}!{% endif %}",
    "a join": TURN + "{% if 'zap' in [m.content] | join %}!{% endif %}",
    "as JSON": TURN + "{% if 'zap' in m.content | tojson %}!{% endif %}",
    "a key": TURN + "{{ {'zap': '!'}.get(m.content, '') }}",
    "a side stripped": "{{ m.role + '\\n' + m.content.lstrip() + '<|im_end|>' }}",
    "all stripped": "{{ (m.role + '\\n' + m.content) | trim + '<|im_end|>' }}",
    "letters": "{{ m.role + '\\n' }}{% for c in m.content %}{{ c }}{% endfor %}{{ '<|im_end|>' }}",
    "doubled": "{{ m.role + '\\n' + m.content + '<|im_end|>' + (m.content * 0) }}",
    "is lower": TURN + "{% if m.content is lower %}{% endif %}",
}
CONTENTS = [("hi", "there"), ("zap", "zap"), ("zapper", " zap"), ("", "x"), ("\n", "zap\t"), ("no", "ZAP ")]


def loop(turn: str) -> str:
    return (
        "{% for m in messages %}" + turn + "{% endfor %}{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
    )


def conversation(question: str, answer: str) -> Conversation:
    return Conversation((Message("user", question, supervised=False), Message("assistant", answer, supervised=True)))


@pytest.mark.parametrize("turn", [*WRITING.values(), *TOUCHING.values()], ids=[*WRITING, *TOUCHING])
def test_a_conversation_becomes_what_its_template_makes_of_it(turn: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = loop(turn)
    render = Renderer(tokenizer)
    for contents in CONTENTS:
        sample = conversation(*contents)
        assert render(sample).text == tokenizer.apply_chat_template(template_messages(sample), tokenize=False)


def known(template: str) -> bool:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.bos_token = tokenizer.eos_token
    messages = template_messages(conversation("some", "words"))
    text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    return writes_only(template, messages, text, dict(tokenizer.special_tokens_map))


@pytest.mark.parametrize("template", [CHATML, CHATML_MARKED, LLAMA2, MISTRAL, *map(loop, WRITING.values())])
def test_common_templates_are_known_to_write_only(template: str) -> None:
    assert known(template)


@pytest.mark.parametrize("turn", TOUCHING.values(), ids=TOUCHING)
def test_nothing_is_said_of_a_template_that_looks_at_contents(turn: str) -> None:
    assert not known(loop(turn))
