"""The zoo's chat templates, with the control tokens that they print."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Template:
    """A kind of chat template, or plain text where `jinja` is empty."""

    jinja: str
    controls: tuple[str, ...]  # tokens that the template prints, beside begin and end
    begin: str | None  # the begin token
    end: str  # the end of a text
    turn_end: str | None  # the end of a turn; None: the same
    system: Literal["turn", "user"] = "turn"  # where a system text must arrive
    words: tuple[str, ...] = ()  # added tokens that are not special


CHATML = (
    "{% for m in messages %}"
    "{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
DROPS_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>\n{{ m['content'] }}<|end|>\n"
    "{% elif m['role'] == 'assistant' %}<|assistant|>\n{{ m['content'] }}<|end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'].split('</think>')[-1].lstrip('\\n') if m['role'] == 'assistant' "
    "else m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)

IM = ("<|im_start|>", "<|im_end|>")
HEADER = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TURN = ("<start_of_turn>", "<end_of_turn>")
PHI = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATES = {
    "chatml": Template(CHATML, IM, None, "<|endoftext|>", "<|im_end|>"),
    "llama3": Template(LLAMA3, HEADER, "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    "gemma": Template(GEMMA, TURN, "<bos>", "<eos>", "<end_of_turn>", "user"),
    "mistral": Template(MISTRAL, (), "<s>", "</s>", None, "user"),
    "drops system": Template(DROPS_SYSTEM, PHI, None, "<|endoftext|>", "<|end|>", "user"),
    "thinking": Template(
        THINKING, IM, None, "<|endoftext|>", "<|im_end|>", words=("<think>", "</think>")
    ),
    "none": Template("", (), "<s>", "</s>", None),
    "none, no begin": Template("", (), None, "<|endoftext|>", None),
}
