"""openai_test.py - the real openai client against the HTTP API in front of the fake service.

The fake answers with the prompt's own tokens, one per byte, so every text and count below can be foretold.
"""
import subprocess
import sys
import unittest

import openai

SERVER = sys.argv.pop(1)
CHAT = [{"role": "user", "content": "Hi \u00e9\u4f60"}]
RENDERED = "<|im_start|>user\nHi \u00e9\u4f60<|im_end|>\n<|im_start|>assistant\n"
SHOWN = "user\nHi \u00e9\u4f60\nassistant\n"  # special tokens are not shown
N_PROMPT = len(SHOWN.encode()) + 3


class Server:
    def __init__(self, *args):
        self.process = subprocess.Popen([SERVER, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def client(self, key="none"):
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0, timeout=20)

    def stop(self):
        self.process.stdin.close()
        status = self.process.wait(20)
        self.process.stdout.close()
        return status


class ApiTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.client = cls.server.client()

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def test_models(self):
        models = self.client.models.list().data
        self.assertEqual([m.id for m in models], ["Fake Model", "fake-adapter"])

    def test_chat(self):
        r = self.client.chat.completions.create(model="default", messages=CHAT)
        self.assertEqual(r.choices[0].message.content, SHOWN)
        self.assertEqual(r.choices[0].message.role, "assistant")
        self.assertEqual(r.choices[0].finish_reason, "stop")
        self.assertEqual((r.usage.prompt_tokens, r.usage.completion_tokens), (N_PROMPT, N_PROMPT))
        self.assertEqual(r.model, "Fake Model")

    def test_chat_parts_and_tools(self):
        parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
        tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
        r = self.client.chat.completions.create(model="default", messages=parts, tools=tools, tool_choice="auto")
        self.assertEqual(r.choices[0].message.content, "user\na\nb\nassistant\n")

    def test_chat_stream(self):
        stream = self.client.chat.completions.create(
            model="fake-model-Q4", messages=CHAT, stream=True, stream_options={"include_usage": True}, max_tokens=8)
        chunks = list(stream)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, SHOWN[:7])  # the first of 8 tokens is special
        self.assertEqual(chunks[-2].choices[0].finish_reason, "length")
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, 8)

    def test_chat_n_stop_logprobs(self):
        r = self.client.chat.completions.create(
            model="default", messages=CHAT, n=3, stop=["Hi"], logprobs=True, top_logprobs=2)
        self.assertEqual([c.index for c in r.choices], [0, 1, 2])
        for c in r.choices:
            self.assertEqual(c.message.content, "user\n")
            self.assertEqual(c.finish_reason, "stop")
            entry = c.logprobs.content[1]
            self.assertEqual((entry.token, entry.bytes, entry.logprob), ("u", [117], -0.5))
            self.assertEqual([t.token for t in entry.top_logprobs], ["u", "v"])

    def test_completion(self):
        r = self.client.completions.create(model="Fake Model", prompt="Hello", max_tokens=3, echo=True)
        self.assertEqual(r.choices[0].text, "HelloHel")
        self.assertEqual(r.choices[0].finish_reason, "length")
        r = self.client.completions.create(model="Fake Model", prompt=["ab", "cd"], n=2)
        self.assertEqual([c.text for c in r.choices], ["ab", "ab", "cd", "cd"])
        self.assertEqual(r.usage.prompt_tokens, 4)
        r = self.client.completions.create(model="Fake Model", prompt=[104, 105])
        self.assertEqual(r.choices[0].text, "hi")

    def test_completion_default_length(self):
        r = self.client.completions.create(model="Fake Model", prompt="x" * 40)
        self.assertEqual(r.usage.completion_tokens, 16)

    def test_completion_stream(self):
        stream = self.client.completions.create(model="default", prompt="Hello", stream=True, max_tokens=4)
        self.assertEqual("".join(c.choices[0].text for c in stream), "Hell")

    def test_scoring(self):
        r = self.client.completions.create(model="default", prompt="abcd", max_tokens=0, echo=True, logprobs=1)
        lp = r.choices[0].logprobs
        self.assertEqual(r.choices[0].text, "abcd")
        self.assertEqual(lp.tokens, ["a", "b", "c", "d"])
        self.assertEqual(lp.token_logprobs, [None, -0.25, -0.5, -0.75])
        self.assertEqual(lp.text_offset, [0, 1, 2, 3])
        r = self.client.completions.create(model="default", prompt="abcd", max_tokens=2, echo=True, logprobs=1)
        self.assertEqual(r.choices[0].text, "abcdab")
        self.assertEqual(r.choices[0].logprobs.token_logprobs[-1], -0.5)
        self.assertEqual(r.choices[0].logprobs.text_offset, [0, 1, 2, 3, 4, 5])

    def test_errors(self):
        with self.assertRaises(openai.NotFoundError) as e:
            self.client.chat.completions.create(model="gpt-4", messages=CHAT)
        self.assertEqual(e.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as e:
            self.client.chat.completions.create(model="default", messages=CHAT, temperature=-1)
        self.assertEqual(e.exception.param, "temperature")
        with self.assertRaises(openai.BadRequestError) as e:
            self.client.completions.create(model="default", prompt="x" * 600)
        self.assertEqual(e.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.BadRequestError):
            self.client.chat.completions.create(
                model="default", messages=CHAT, response_format={"type": "json_object"})

    def test_many_at_once(self):
        import concurrent.futures
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            ask = lambda i: self.client.completions.create(model="default", prompt=f"prompt {i}").choices[0].text
            self.assertEqual(list(pool.map(ask, range(64))), [f"prompt {i}" for i in range(64)])

    def test_queue_full(self):
        with self.assertRaises(openai.RateLimitError) as e:  # 128 answers at once, 64 places: never a part of them
            self.client.completions.create(model="default", prompt=["x"] * 64, n=2)
        self.assertEqual(e.exception.response.headers["retry-after"], "1")
        self.assertEqual(self.client.completions.create(model="default", prompt="ok").choices[0].text, "ok")


class KeyTest(unittest.TestCase):
    def test_key(self):
        server = Server("--key", "sk-right")
        with self.assertRaises(openai.AuthenticationError):
            server.client("sk-wrong").models.list()
        self.assertEqual(len(server.client("sk-right").models.list().data), 2)
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    unittest.main()
