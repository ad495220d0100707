"""openai_tools_test.py - tool calls and reasoning as the real openai client sees them, for every style, whole and streamed.

The fake service answers every request with the text it is given; marks in that text are special tokens of its vocabulary.
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest

import openai

SERVER = sys.argv.pop(1)
USER = {"role": "user", "content": "Weather?"}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}} for name in ("weather", "time")]
ROME, NOW = {"city": "Rome", "days": 2}, {}
TEMPLATE = """{% for m in messages %}[{{ m.role }}]{{ m.reasoning_content }}{{ m.content or '' }}
{%- for c in m.tool_calls or [] %}({{ c.function.name }} {{ c.function.arguments | tojson }}){% endfor %}{% endfor %}
{%- if tools %}<tools {{ tools | length }}>{% endif %}{{ reasoning_effort }}{{ flavour }}
{%- if add_generation_prompt %}[assistant]{% endif %}"""

CALLS = "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"
ROME_TEXT = '{"city": "Rome", "days": 2}'
HERMES = ('<tool_call>\n{"name": "weather", "arguments": %s}\n</tool_call>\n<tool_call>\n{"name": "time", "arguments": {}}\n'
          '</tool_call>') % ROME_TEXT
# (tool parser, reasoning parser, answer): each says "Hm." to itself (where it can reason), "Well." aloud, then calls twice.
STYLES = [
    ("hermes", "qwen3", "<think>\nHm.\n</think>\n\nWell.\n" + HERMES),
    ("qwen3_coder", "qwen3", "<think>Hm.</think>Well.<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n"
     "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=time>\n</function>\n</tool_call>"),
    ("glm45", "glm45", "<think>Hm.</think>\nWell.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n"
     "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n<tool_call>time\n</tool_call>"),
    ("llama3_json", "none", 'Well.<|python_tag|>{"name": "weather", "parameters": %s}; {"name": "time", "parameters": {}}' % ROME_TEXT),
    ("deepseek_v3", "deepseek_r1", "<think>\nHm.\n</think>\n\nWell." + CALLS[0] + CALLS[1] + "function" + CALLS[2]
     + "weather\n```json\n" + ROME_TEXT + "\n```" + CALLS[3] + "\n" + CALLS[1] + "function" + CALLS[2] + "time\n```json\n{}\n```"
     + CALLS[3] + CALLS[4]),
    ("deepseek_v31", "deepseek_r1", "<think>Hm.</think>Well." + CALLS[0] + CALLS[1] + "weather" + CALLS[2] + ROME_TEXT + CALLS[3]
     + CALLS[1] + "time" + CALLS[2] + "{}" + CALLS[3] + CALLS[4]),
    ("mistral", "mistral", '[THINK]Hm.[/THINK]Well.[TOOL_CALLS][{"name": "weather", "arguments": %s}, {"name": "time", '
     '"arguments": {}}]' % ROME_TEXT),
    ("mistral", "mistral", "[THINK]Hm.[/THINK]Well.[TOOL_CALLS]weather[ARGS]%s[TOOL_CALLS]time[ARGS]{}" % ROME_TEXT),
    ("openai", "openai", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>Well.<|end|>"
     "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>" + ROME_TEXT
     + "<|end|><|start|>assistant<|channel|>commentary to=functions.time <|constrain|>json<|message|>{}<|call|>"),
    ("granite", "none", 'Well.<|tool_call|>[{"name": "weather", "arguments": %s}, {"name": "time", "arguments": {}}]' % ROME_TEXT),
    ("phi4_mini_json", "none", 'Well. functools[{"name": "weather", "arguments": %s}, {"name": "time", "arguments": {}}]' % ROME_TEXT),
]


class Server:
    def __init__(self, *args):
        self.process = subprocess.Popen([SERVER, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0, timeout=20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        status = self.process.wait(20)
        self.process.stdout.close()
        assert status == 0, status

    def ask(self, messages=(USER,), **options):
        return self.client.chat.completions.create(model="default", messages=list(messages), **options)


class Streamed:
    """What the chunks of a stream add up to, in the shape of a whole answer."""

    def __init__(self, chunks):
        self.content, self.reasoning, self.calls, self.finish = "", "", [], None
        for chunk in chunks:
            choice = chunk.choices[0]
            delta = choice.delta
            self.content += delta.content or ""
            self.reasoning += getattr(delta, "reasoning_content", None) or ""
            assert getattr(delta, "reasoning", None) == getattr(delta, "reasoning_content", None)
            for piece in delta.tool_calls or []:
                if piece.id:
                    assert piece.index == len(self.calls) and piece.type == "function"
                    self.calls.append([piece.id, piece.function.name, ""])
                self.calls[piece.index][2] += piece.function.arguments
            assert self.finish is None
            self.finish = choice.finish_reason


class StyleTest(unittest.TestCase):
    def check(self, reasoner, content, reasoning, calls, finish):
        self.assertEqual(content, "Well.")
        self.assertEqual(reasoning, "" if reasoner == "none" else "Hm.")
        self.assertEqual([name for _, name, _ in calls], ["weather", "time"])
        self.assertEqual([json.loads(arguments) for _, _, arguments in calls], [ROME, NOW])
        self.assertEqual(len({call_id for call_id, _, _ in calls}), 2)
        self.assertEqual(finish, "tool_calls")

    def test_styles(self):
        for tools, reasoner, answer in STYLES:
            with self.subTest(tools=tools, reasoner=reasoner), Server(
                    "--tool-parser", tools, "--reasoning-parser", reasoner, "--answer", answer) as server:
                choice = server.ask(tools=TOOLS).choices[0]
                m = choice.message
                self.check(reasoner, m.content, getattr(m, "reasoning_content", ""),
                           [(c.id, c.function.name, c.function.arguments) for c in m.tool_calls], choice.finish_reason)
                self.assertTrue(all(c.type == "function" for c in m.tool_calls))
                s = Streamed(server.ask(tools=TOOLS, stream=True))
                self.check(reasoner, s.content, s.reasoning, s.calls, s.finish)

    def test_mistral_ids(self):
        with Server("--tool-parser", "mistral", "--answer", "[TOOL_CALLS]time{}") as server:
            self.assertEqual(len(server.ask(tools=TOOLS).choices[0].message.tool_calls[0].id), 9)


class AnswerTest(unittest.TestCase):
    def test_no_tools_no_calls(self):
        with Server("--tool-parser", "hermes", "--answer", HERMES) as server:
            for options in ({}, {"tools": TOOLS, "tool_choice": "none"}):
                choice = server.ask(**options).choices[0]
                self.assertIsNone(choice.message.tool_calls)
                self.assertEqual(choice.finish_reason, "stop")

    def test_only_a_call(self):
        with Server("--tool-parser", "hermes", "--answer", HERMES) as server:
            self.assertIsNone(server.ask(tools=TOOLS).choices[0].message.content)

    def test_malformed_is_content(self):
        bad = '<tool_call>\n{"name": "weather", "arguments": {"city": }}\n</tool_call>'
        with Server("--tool-parser", "hermes", "--answer", bad) as server:
            choice = server.ask(tools=TOOLS).choices[0]
            self.assertEqual((choice.message.content, choice.message.tool_calls), (bad, None))
            self.assertEqual(choice.finish_reason, "stop")
            self.assertEqual(Streamed(server.ask(tools=TOOLS, stream=True)).content, bad)

    def test_one_call(self):
        with Server("--tool-parser", "hermes", "--answer", HERMES + " more") as server:
            r = server.ask(tools=TOOLS, parallel_tool_calls=False)
            self.assertEqual([c.function.name for c in r.choices[0].message.tool_calls], ["weather"])
            self.assertEqual(r.choices[0].finish_reason, "tool_calls")
            self.assertLess(r.usage.completion_tokens, len(HERMES) - 20)  # it was stopped after the first
            s = Streamed(server.ask(tools=TOOLS, parallel_tool_calls=False, stream=True))
            self.assertEqual((len(s.calls), s.finish), (1, "tool_calls"))

    def test_cut_off(self):
        with Server("--tool-parser", "hermes", "--reasoning-parser", "qwen3", "--answer", "<think>Hm. " + "x" * 50) as server:
            choice = server.ask(tools=TOOLS, max_tokens=10).choices[0]
            self.assertEqual((choice.finish_reason, choice.message.content), ("length", None))
            self.assertEqual(choice.message.reasoning_content, choice.message.reasoning)
            self.assertEqual(choice.message.reasoning, "Hm. xxxxx")

    def test_reasoning_left_out(self):
        with Server("--reasoning-parser", "qwen3", "--answer", "<think>Hm.</think>Well.") as server:
            for stream in (False, True):
                r = server.ask(stream=stream, extra_body={"include_reasoning": False})
                if stream:
                    s = Streamed(r)
                    self.assertEqual((s.content, s.reasoning), ("Well.", ""))
                else:
                    self.assertEqual(r.choices[0].message.content, "Well.")
                    self.assertFalse(hasattr(r.choices[0].message, "reasoning_content"))

    def test_stop_strings_and_logprobs(self):
        with Server("--reasoning-parser", "qwen3", "--answer", "<think>ab</think>cdEND of") as server:
            r = server.ask(stop=["END"], logprobs=True).choices[0]
            self.assertEqual((r.message.content, r.message.reasoning_content), ("cd", "ab"))
            self.assertEqual([e.token for e in r.logprobs.content], ["<think>", "a", "b", "</think>", "c", "d", "E", "N"])

    def test_n(self):
        with Server("--tool-parser", "hermes", "--answer", HERMES) as server:
            r = server.ask(tools=TOOLS, n=2)
            ids = [c.id for choice in r.choices for c in choice.message.tool_calls]
            self.assertEqual(len(set(ids)), 4)


class ForcedTest(unittest.TestCase):
    """The beginning of a forced call is part of the prompt; the fake model goes on from there."""

    def test_required(self):
        with Server("--tool-parser", "hermes", "--answer", 'time", "arguments": {}}\n</tool_call>') as server:
            choice = server.ask(tools=TOOLS, tool_choice="required").choices[0]
            self.assertEqual([c.function.name for c in choice.message.tool_calls], ["time"])
            self.assertEqual((choice.message.content, choice.finish_reason), (None, "tool_calls"))

    def test_named(self):
        named = {"type": "function", "function": {"name": "weather"}}
        with Server("--tool-parser", "openai", "--answer", ROME_TEXT + "<|call|>") as server:
            for stream in (False, True):
                r = server.ask(tools=TOOLS, tool_choice=named, stream=stream)
                calls = Streamed(r).calls if stream else [(c.id, c.function.name, c.function.arguments)
                                                         for c in r.choices[0].message.tool_calls]
                self.assertEqual([(n, json.loads(a)) for _, n, a in calls], [("weather", ROME)])

    def test_refused(self):
        with Server("--answer", "x") as server:  # the plain template knows no tools
            with self.assertRaisesRegex(openai.BadRequestError, "--tool-parser"):
                server.ask(tools=TOOLS, tool_choice="required")
            with self.assertRaisesRegex(openai.BadRequestError, "not in 'tools'"):
                server.ask(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "other"}})


class PromptTest(unittest.TestCase):
    """The fake model says its prompt again, so the answer shows what the template made of the request."""

    @classmethod
    def setUpClass(cls):
        with tempfile.NamedTemporaryFile("w", suffix=".jinja", delete=False) as f:
            f.write(TEMPLATE)
        cls.path = f.name
        cls.server = Server("--template", cls.path).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()
        os.unlink(cls.path)

    def prompt(self, messages, **options):
        return self.server.ask(messages, **options).choices[0].message.content

    def test_history(self):
        call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": ROME_TEXT}}
        messages = [USER, {"role": "assistant", "reasoning": "Hm.", "content": None, "tool_calls": [call]},
                    {"role": "tool", "tool_call_id": "c1", "content": "sunny"}]
        self.assertEqual(self.prompt(messages, tools=TOOLS),
                         "[user]Weather?[assistant]Hm.(weather %s)[tool]sunny<tools 2>[assistant]" % ROME_TEXT)

    def test_template_options(self):
        got = self.prompt([USER], reasoning_effort="low", extra_body={"chat_template_kwargs": {"flavour": "!", "reasoning_effort": "high"}})
        self.assertEqual(got, "[user]Weather?high![assistant]")

    def test_apply_and_detokenize(self):
        post = lambda path, body: self.server.client.post(f"http://127.0.0.1:{self.server.port}{path}", body=body, cast_to=object)
        self.assertEqual(post("/apply-template", {"messages": [USER]})["prompt"], "[user]Weather?[assistant]")
        ids = post("/tokenize", {"content": "h\u00e9"})["tokens"]
        self.assertEqual(post("/detokenize", {"tokens": ids})["content"], "h\u00e9")


if __name__ == "__main__":
    unittest.main()
