"""Twelve chat templates of the kinds that public models have, written anew: what they ask of a renderer."""

TEMPLATES: dict[str, str] = {
    # Qwen2.5, SmolLM2: a system text of its own where none is given
    "chatml with a default system": """\
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nBe useful.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    # Llama 2, Mistral: `[INST]`, alternating roles, refusals
    "instructions": """\
{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}\
{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{{ bos_token }}\
{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Roles must take turns') }}{% endif %}\
{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>' + system + '<</SYS>>' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}\
{% if message['role'] == 'user' %}{{ '[INST] ' + content.strip() + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' + content | trim + ' ' + eos_token }}{% endif %}{% endfor %}""",
    # Llama 3.x: today's date in the system text, tools in it
    "dated headers": """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date_string + "\\n<|eot_id|>" }}
{%- if tools is not none %}{{- tools | tojson(indent=4) }}{%- endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
""",
    # SmolLM3: generation tags for the loss mask
    "generation tags": """\
{%- set ns = namespace(date=strftime_now("%B %d, %Y")) -%}
<|im_start|>system
{{ ns.date }}<|im_end|>
{% for message in messages -%}
{%- if message.role == "assistant" %}{% generation %}{{ "<|im_start|>assistant\\n" + message.content + "<|im_end|>\\n" }}\
{% endgeneration %}{%- else %}{{ "<|im_start|>" + message.role + "\\n" + message.content + "<|im_end|>\\n" }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\\n" }}{% endif %}""",
    # Gemma: no system role, the assistant is the model
    "renamed roles": """\
{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('No system') }}{% endif %}\
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}\
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}""",
    # Qwen3: a switch of the caller's, reversed search, split thoughts
    "thinking switch": """\
{%- set ns = namespace(last=messages|length - 1, open=true) %}
{%- for message in messages[::-1] %}
    {%- if ns.open and message.role == "user" and not (message.content.startswith('<tool_response>')) %}
        {%- set ns.open = false %}{%- set ns.last = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role == "assistant" and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    # DeepSeek-R1's distilled models: variables with defaults, an opened thought
    "opened thought": """\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}\
{% set ns = namespace(is_first=false, system_prompt='') %}\
{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}\
{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{{'<|User|>' + message['content']}}\
{%- elif message['role'] == 'assistant' and message['content'] is not none %}{{'<|Assistant|>' + message['content'] + '<|end|>'}}{%- endif %}{%- endfor -%}\
{% if add_generation_prompt %}{{'<|Assistant|><think>\\n'}}{% endif %}""",
    # Zephyr, TinyLlama: the end token behind every turn, blocks on lines of their own
    "end behind turns": """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    # Phi-3 and 4: only known roles
    "known roles": """\
{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}\
{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}\
{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}""",
    # gpt-oss, Granite: macros, dates, JSON of what is given
    "macros and json": """\
{%- macro header(role, extra={}) -%}<|start|>{{ role }}{{ extra | tojson if extra }}<|message|>{%- endmacro -%}
{{- header("system", {"date": strftime_now("%Y-%m-%d"), "text": "é <b>"}) }}Reason.<|end|>
{%- for message in messages -%}
{%- if message.role not in ["user", "assistant", "system"] -%}{%- continue -%}{%- endif -%}
{{- header(message.role) + message.content + "<|end|>" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}""",
    # Command-R, OLMo 2: tests of what is defined, tokens that may be unset
    "unset tokens": """\
{{ bos_token if bos_token is defined else '<BOS>' }}{% if unk_token is defined %}{{ unk_token }}{% endif %}\
{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '\n' }}\
{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}{% else %}\
{% if not loop.last %}{{ '<|assistant|>\n' + message['content'] + eos_token + '\n' }}\
{% else %}{{ '<|assistant|>\n' + message['content'] + eos_token }}{% endif %}{% endif %}\
{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}""",
    # Gemma 3, GLM: contents that may be lists, breaks out of loops, named items
    "contents of several kinds": """\
{%- for message in messages -%}
{{- '<|' ~ message['role'] ~ '|>' -}}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- elif message['content'] is iterable -%}
{%- for item in message['content'] -%}{%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- else -%}{%- break -%}{%- endif -%}{%- endfor -%}
{%- else -%}{{ raise_exception("Invalid content") }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}""",
}
