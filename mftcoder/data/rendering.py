"""Conversations as text, by the chat template, with the spans of the answers and the borders of the exchanges.

An answer's span runs from where the prompt for it ends (the rendering of all earlier messages with
``add_generation_prompt``) to the end of its end-of-turn token::

    <|im_start|>user\\nhi<|im_end|>\\n<|im_start|>assistant\\n|hello<|im_end|>|\\n
                                                           |--supervised--|

A template with ``{% generation %}`` marks says itself which spans these are.

Finding them takes several renderings. So it is done once for all conversations of one shape (sequence of roles), with
placeholders as contents. Where the rendering of a conversation is that of the placeholders with its own contents in
their places, the spans are where the contents put them; all other conversations are measured themselves. Of templates
that do nothing with contents but write them it is known without that rendering.
"""

from collections.abc import Hashable
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerFast

from mftcoder.data.control import control_tokens
from mftcoder.data.layouts import Layout, layout_of, shape_of
from mftcoder.data.records import Conversation
from mftcoder.data.spans import Rendered, Renderings
from mftcoder.errors import MftcoderError

OWN_TEMPLATE = 'Give a template in data.chat.file, or role markers with data.chat.type "markers".'

# Of every tokenizer, as long as it lives, its templates' layouts of every shape seen so far.
_LAYOUTS: WeakKeyDictionary[PreTrainedTokenizerFast, dict[str, dict[Hashable, Layout]]] = WeakKeyDictionary()


class Renderer:
    """A tokenizer's chat template at work.

    With ``parse_control`` a control token that the data spell out is that token; without, it is ordinary text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, parse_control: bool = False) -> None:
        self._tokenizer = tokenizer
        self._special = dict(tokenizer.special_tokens_map)
        self._control = None if parse_control else control_tokens(tokenizer)

    def __call__(self, sample: Conversation) -> Rendered:
        """``sample`` as text.

        Raises MftcoderError, naming the sample's place, if there is no template, if it refuses the conversation, if
        the answers cannot be told apart in what it writes, and if what it marks as answers is something else.
        """
        renderings = self._renderings(sample)
        layouts = _LAYOUTS.setdefault(self._tokenizer, {}).setdefault(renderings.template, {})
        shape = shape_of(sample)
        if shape not in layouts:
            layouts[shape] = layout_of(sample, renderings.template, self._special)
        layout = layouts[shape]
        if layout.fault:
            raise MftcoderError(f"{sample.where}: the chat template {layout.fault}. {OWN_TEMPLATE}")
        if layout.literals and not renderings.restored:
            placed = layout.placed(sample.messages)
            if layout.is_all or placed.text == renderings.whole:
                return placed
        return renderings.measured()

    def prompt(self, sample: Conversation) -> Rendered:
        """``sample`` up to where the model's answer to its last message begins; raises as ``__call__`` does."""
        renderings = self._renderings(sample)
        return Rendered(renderings.text(add_generation_prompt=True), [], [], renderings.restored)

    def _renderings(self, sample: Conversation) -> Renderings:
        if not self._tokenizer.chat_template:
            raise MftcoderError(f"{sample.where}: the tokenizer has no chat template for conversations. {OWN_TEMPLATE}")
        template = self._tokenizer.get_chat_template(None, list(sample.tools) or None)
        return Renderings(sample, template, self._special, self._control)
