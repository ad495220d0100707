"""make_tokenizers.py - tiny tokenizers of every kind that the known families ship, with vectors from HF tokenizers.

    python make_tokenizers.py [FOLDER]      (needs the packages tokenizers and sentencepiece; default: data/tokenizers)

Each NAME.json is a tokenizer.json of a few hundred tokens with the normalizer, pre-tokenizer, model, post-processor and
decoder of a family; NAME.jsonl holds for each line of texts.jsonl what HF tokenizers makes of it:
  ids       special tokens recognised, nothing added      plain   special tokens read as text (left out when equal; null: not compared)
  text      the ids decoded, special tokens shown         hidden  special tokens left out (left out when equal)
Its first line has what is put around a text (add_special_tokens). spm-*.model are SentencePiece files, with vectors from
SentencePiece. Training is deterministic; the trainer's corpus is in this file, so that a run gives the same files.
"""
import io
import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = """
The quick brown fox jumps over the lazy dog. It's what they've said: we'll see, won't we? I'm sure you'd agree that he's right.
In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness was upon the face
of the deep. And the Spirit of God moved upon the face of the waters. And God said, Let there be light: and there was light.
Nel mezzo del cammin di nostra vita mi ritrovai per una selva oscura, che la diritta via era smarrita.
Größe, Übermut und Straße; déjà vu, garçon, naïve façade; señor, niño; Łódź, žluťoučký kůň.
def tokenize(text: str) -> list[int]:\n    return [vocab[c] for c in text if c in vocab]  # 12345 items, 3.14159 each\n
for (int i = 0; i < 100; i++) { printf("%d\\n", i * 2); }\n\n\n\t\tif (x != NULL) free(x);
Привет, мир! Как дела? Это проверка разбиения текста на части. Γειά σου Κόσμε, τι κάνεις;
你好，世界！今天天气很好。我们去公园玩吧。こんにちは世界。カタカナとひらがな。안녕하세요 세계, 오늘 날씨가 좋네요.
مرحبا بالعالم، كيف حالك؟ שלום עולם नमस्ते दुनिया สวัสดีชาวโลก
In 2024, 1,234,567 people paid $19.99 (about 18.50 EUR) on 12/25/2023 at 10:30 a.m.
camelCase HTTPServer iPhone XMLHttpRequest McDonald USA NASA's e.g. i.e. don't DON'T I'VE you'Re
""".strip("\n").split("\n")

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\n", " \n ", "a", " a", "a ", "  a  ", "Hello", " Hello world", "Hello  world",
    "Hello   world\n", "Hello, y'all! How are you 😁 ?我想在apple工作1314151天～", "It's they've we'll I'm you'd he's don't",
    "IT'S THEY'VE WE'LL I'M YOU'D HE'S DON'T I'Re", "it’s ‘quoted’ “text” — dash… §", "1", "12", "123", "1234", "12345", "1234567890",
    "3.14159 1,234,567 $19.99 10:30", "٣٤٥ ⅷ ½ ²³ Ⅻ ①②", "a1b2c3 x2 2x", "你好，世界！", "今天天气很好。我们去公园", "こんにちは世界カタカナ", "안녕하세요 세계",
    "漢字かな交じり文 mixed 日本語 text", "Привет, мир! Как дела?", "Γειά σου Κόσμε", "مرحبا بالعالم، كيف", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "déjà vu garçon naïve", "de\u0301ja\u0300 vu cafe\u0301", "Ångström \u212b A\u030a", "ﬁne ﬀ Ⅳ ㍿ ｆｕｌｌ", "ẞ ß İ ı ſ Σς ǅ",
    "🙂", "👨‍👩‍👧‍👦 👍🏽 🇮🇹 🏳️‍🌈", "x🙂y", "a\u00a0b\u00a0 c", "a\u2003b\u3000c\u200bd\u2028e", "a\u180eb \u0085 c", "line\r\nline\r\n\r\nend",
    "a\rb", "tab\tsep\t\tx", "    indented\n        more\n\tx", "def f(x):\n    return x + 1  # ok\n\n\nprint(f(2))", "for (i=0;i<10;i++) {x[i]+=1;}",
    "camelCase HTTPServer iPhone XMLHttpRequest", "McDONALD'S o'clock 'tis", "....", "!!??!?", "--- *** === ###", "a.b,c;d:e", "http://x.org/a?b=c&d=%20#e",
    "<s>", "</s>", "<s>Hello</s>", "<|im_start|>user\nHi<|im_end|>\n", "x<|im_end|>y", " <|im_end|> ", "<|im_end|>  <|im_end|>", "<unk>", "<|im_en", "<|im_end|",
    "<mask>", "a <mask> b", "a<mask>b", "word sword words word", "word", "the cat the", "[TOOL] x [TOOL]", "NORM norm Norm", "\u2581", "a\u2581b", "\u2581 \u2581a",
    "<0x41><0x0A>", "\x00\x01\x7f", "\ufeffbom", "\ufffd", "e\u0301\u0301\u0301", "\u0301a", "ａｂｃ１２３", "𝓗𝓮𝓵𝓵𝓸 𝟙𝟚", "zq" * 20, "a" * 50, " " * 33 + "x", "\n" * 9 + " y",
    "The quick brown fox jumps over the lazy dog. " * 2,
]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CAMEL = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
O200K = CAMEL % (("(?i:'s|'t|'re|'ve|'m|'ll|'d)?",) * 2) + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = CAMEL % ("", "") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK3 = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def bytes_only():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def special(text, **kw):
    return AddedToken(text, special=True, normalized=kw.pop("normalized", False), **kw)


def byte_level(pre, size=360, specials=IM, normalizer=None, post=None, decoder=None, **model):
    t = Tokenizer(models.BPE(**model))
    t.pre_tokenizer = pre
    t.decoder = decoder or decoders.ByteLevel()
    if normalizer:
        t.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[special(s) for s in specials])
    t.train_from_iterator(CORPUS * 3, trainer)
    if post:
        t.post_processor = post(t)
    return t


def with_tokens(t, tokens):
    """BpeTrainer cannot make byte tokens: put `tokens` in front of the vocabulary of a trained BPE."""
    d = json.loads(t.to_str())
    words = [w for w in sorted(d["model"]["vocab"], key=d["model"]["vocab"].get) if w not in tokens]
    d["model"]["vocab"] = {w: i for i, w in enumerate(tokens + words)}
    d["added_tokens"] = []
    return d


BYTES = ["<0x%02X>" % i for i in range(256)]


def spm_like(normalizer, pre, decoder, specials, size=330, fuse=True, post=None, added=(), fallback=True):
    """SentencePiece's BPE as converters write it: raw characters, byte fallback."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse, byte_fallback=fallback))
    if normalizer:
        t.normalizer = normalizer
    # SentencePiece splits at spaces while it trains, even where the tokenizer does not
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never") if normalizer is None else pre_tokenizers.Split("\u2581", "merged_with_next")
    t.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(vocab_size=size, show_progress=False, limit_alphabet=90))
    d = with_tokens(t, specials + (BYTES if fallback else []))
    t = Tokenizer.from_str(json.dumps(d))
    t.pre_tokenizer = pre
    t.decoder = decoder
    t.add_special_tokens([special(s) for s in specials])
    for a in added:
        (t.add_special_tokens if a.special else t.add_tokens)([a])
    if post:
        t.post_processor = post(t)
    return t


def template(before=(), after=()):
    def make(t):
        names = [*before, *after]
        return processors.TemplateProcessing(single=" ".join([*before, "$A", *after]), special_tokens=[(n, t.token_to_id(n)) for n in names])
    return make


def llama_decoder(strip=True):
    d = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(d + ([decoders.Strip(content=" ", left=1)] if strip else []))


def unigram(normalizer, pre, decoder, specials, fallback=False, size=400, post=None):
    t = Tokenizer(models.Unigram())
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.train_from_iterator(CORPUS * 3, trainers.UnigramTrainer(vocab_size=size, show_progress=False, special_tokens=specials, unk_token="<unk>", max_piece_length=12))
    if fallback:
        d = json.loads(t.to_str())
        d["model"]["vocab"] = d["model"]["vocab"][:len(specials)] + [[b, -100.0] for b in BYTES] + d["model"]["vocab"][len(specials):]
        d["model"]["byte_fallback"] = True
        t = Tokenizer.from_str(json.dumps(d))
    t.decoder = decoder
    if post:
        t.post_processor = post(t)
    return t


def words(model, trainer, normalizer, pre, decoder, post=None):
    t = Tokenizer(model)
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.train_from_iterator(CORPUS * 3, trainer)
    if decoder:
        t.decoder = decoder
    if post:
        t.post_processor = post(t)
    return t


def sentencepiece(folder, name, **kw):
    import sentencepiece as sp

    out = io.BytesIO()
    sp.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS * 3), model_writer=out, num_threads=1, minloglevel=2, **kw)
    (folder / f"{name}.model").write_bytes(out.getvalue())
    s = sp.SentencePieceProcessor(model_proto=out.getvalue())
    with (folder / f"{name}.jsonl").open("w") as f:
        print(json.dumps({"before": [], "after": []}), file=f)
        for text in TEXTS:
            ids = s.encode(text)
            # symbols of the user are cut out first here, as HF and llama.cpp do: what is behind one gets a space; a NUL ends the text there
            mine = any(x in text for x in ("<|im_end|>", "the cat", "\0"))
            row = {"ids": None if mine else ids, "text": None if mine or s.unk_id() in ids else s.decode(ids)}
            print(json.dumps(row, ensure_ascii=True, separators=(",", ":")), file=f)
    return s


def rules(folder):
    """A small character map with what NFKC has: wide letters, ligatures, keys of several characters, spaces, removals."""
    pairs = [(chr(0xff01 + i), chr(0x21 + i)) for i in range(94)]
    pairs += [("\ufb01", "fi"), ("\ufb00", "ff"), ("\u2163", "IV"), ("e\u0301", "\u00e9"), ("a\u0300", "\u00e0"), ("A\u030a", "\u00c5"), ("\u212b", "\u00c5"),
              ("\u337f", "\u682a\u5f0f\u4f1a\u793e"), ("\t", " "), ("\n", " "), ("\r", " "), ("\u00a0", " "), ("\u3000", " "), ("\u2003", " "), ("\u200b", ""), ("\ufeff", "")]
    path = folder / "rules.tsv"
    path.write_text("".join("%s\t%s\n" % tuple(" ".join("%X" % ord(c) for c in side) for side in pair) for pair in pairs))
    return path


def charsmap(s):
    """The precompiled character map of a SentencePiece model: field 2 of field 3 of its protobuf."""
    def fields(data):
        at = 0
        while at < len(data):
            def varint():
                nonlocal at
                value = shift = 0
                while True:
                    value |= (data[at] & 127) << shift
                    shift += 7
                    at += 1
                    if data[at - 1] < 128:
                        return value
            key = varint()
            if key & 7 == 0:
                varint()
            elif key & 7 == 5:
                at += 4
            else:
                n = varint()
                yield key >> 3, data[at:at + n]
                at += n
    return dict(fields(dict(fields(s.serialized_model_proto()))[3]))[2]


def quirks():
    """Added tokens of every sort."""
    t = byte_level(split(LLAMA3), specials=IM)
    t.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("_", " ")])
    t.pre_tokenizer = pre_tokenizers.Sequence([split(LLAMA3), bytes_only()])
    t.add_special_tokens([special("<mask>", lstrip=True), special("[TOOL]", rstrip=True), special("</s>", lstrip=True, rstrip=True), special("<s>", single_word=True)])
    t.add_tokens([AddedToken("word", single_word=True, normalized=False), AddedToken("NORM", normalized=True), AddedToken("the cat", normalized=True),
                  AddedToken("\n\n", normalized=False), AddedToken("  ", normalized=False), AddedToken("<|im", normalized=False), AddedToken("ÜB", normalized=True, lstrip=True)])
    return t


def kinds(charsmap_bytes):
    P, N = pre_tokenizers, normalizers
    space = chr(0x2581)
    prepend = lambda: N.Sequence([N.Prepend(space), N.Replace(" ", space)])
    yield "gpt2", byte_level(P.ByteLevel(add_prefix_space=False), specials=["<|endoftext|>"], post=lambda t: processors.ByteLevel(trim_offsets=False))
    yield "llama3", byte_level(P.Sequence([split(LLAMA3), bytes_only()]), specials=["<|begin_of_text|>", "<|im_start|>", "<|im_end|>"], ignore_merges=True,
                               post=lambda t: processors.Sequence([processors.ByteLevel(), template(["<|begin_of_text|>"])(t)]))
    yield "qwen2", byte_level(P.Sequence([split(QWEN2), bytes_only()]), normalizer=N.NFC())
    yield "deepseek3", byte_level(P.Sequence([split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK3), bytes_only()]), normalizer=N.Sequence([]),
                                  specials=["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<|im_end|>"])
    yield "deepseek-coder", byte_level(P.Sequence([split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), P.Digits(individual_digits=True), bytes_only()]))
    yield "o200k", byte_level(P.Sequence([split(O200K), bytes_only()]), specials=["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|end|>", "<|call|>", "<|im_end|>"])
    yield "tekken", byte_level(P.Sequence([split(TEKKEN), bytes_only()]), specials=["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], ignore_merges=True, post=template(["<s>"]))
    yield "smollm", byte_level(P.Sequence([P.Digits(individual_digits=True), P.ByteLevel(add_prefix_space=False)]))
    yield "cl100k", byte_level(P.Sequence([split(CL100K, "removed", True), P.ByteLevel(add_prefix_space=False, use_regex=False)]))
    yield "falcon", byte_level(P.Sequence([P.Punctuation("contiguous"), P.ByteLevel(add_prefix_space=False), P.Digits(individual_digits=False), split("[0-9][0-9][0-9]")]))
    yield "roberta", byte_level(P.ByteLevel(add_prefix_space=True), specials=["<s>", "<pad>", "</s>", "<unk>"],
                                post=lambda t: processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>"))))
    yield "bytes-normalizer", byte_level(P.Split(Regex("Ġ?[^Ġ]+"), "isolated"), normalizer=N.Sequence([N.NFKC(), N.ByteLevel()]), size=340)
    yield "added", quirks()
    yield "llama2", spm_like(prepend(), None, llama_decoder(), ["<unk>", "<s>", "</s>"], post=template(["<s>"]))
    yield "mistral", spm_like(None, P.Metaspace(prepend_scheme="first", split=False), llama_decoder(), ["<unk>", "<s>", "</s>", "[INST]"], post=template(["<s>"], ["</s>"]))
    yield "llama-split", spm_like(None, P.Metaspace(prepend_scheme="always", split=True), decoders.Metaspace(prepend_scheme="always", split=True), ["<unk>", "<s>", "</s>"], fuse=False)
    yield "gemma", spm_like(N.Replace(" ", space), P.Split(" ", "merged_with_previous"), llama_decoder(False), ["<pad>", "</s>", "<s>", "<unk>"], post=template(["<s>"]),
                            added=[AddedToken(x, normalized=False) for x in ("\n", "\n\n", "\n\n\n", "\t", space * 2, space * 3)])
    yield "phi3", spm_like(prepend(), None, llama_decoder(), ["<unk>", "<s>"], added=[AddedToken("</s>", normalized=False, rstrip=True), special("<|im_end|>", rstrip=True), special("<|im_start|>", rstrip=True)])
    yield "legacy", spm_like(prepend(), None, llama_decoder(), ["<unk>", "<s>", "</s>"], fallback=False, added=[AddedToken("<mask>", normalized=True), AddedToken("the", normalized=True, single_word=True)])
    yield "unk", spm_like(None, P.Sequence([P.WhitespaceSplit(), P.Metaspace(prepend_scheme="never")]), decoders.Metaspace(prepend_scheme="never"), ["<unk>", "<s>"], fuse=False, fallback=False)
    yield "t5", unigram(N.Sequence([N.Precompiled(charsmap_bytes), N.Replace(Regex(" {2,}"), " ")]), P.Metaspace(), decoders.Metaspace(), ["<pad>", "</s>", "<unk>"], post=template([], ["</s>"]))
    yield "unigram-bytes", unigram(N.Sequence([N.Nmt(), N.NFKD(), N.Strip(), N.StripAccents()]), P.Sequence([P.WhitespaceSplit(), P.Metaspace(prepend_scheme="first")]), llama_decoder(), ["<unk>", "<s>", "</s>"], fallback=True)
    bert = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<mask>"]
    yield "bert", words(models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=400, show_progress=False, special_tokens=bert, limit_alphabet=120), N.BertNormalizer(lowercase=True),
                        P.BertPreTokenizer(), decoders.WordPiece(cleanup=True), lambda t: processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)))
    yield "words", words(models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(vocab_size=300, show_progress=False, special_tokens=["<unk>", "<s>"]), N.NFD(), P.Whitespace(), None)
    yield "suffix", words(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), trainers.BpeTrainer(vocab_size=350, show_progress=False, special_tokens=["<unk>"], end_of_word_suffix="</w>", limit_alphabet=100),
                          N.Lowercase(), P.Sequence([P.WhitespaceSplit(), P.Punctuation("isolated")]), decoders.Fuse())
    yield "prefix", words(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"), trainers.BpeTrainer(vocab_size=350, show_progress=False, special_tokens=["<unk>"], continuing_subword_prefix="##", limit_alphabet=60),
                          None, P.Sequence([P.CharDelimiterSplit(" "), split(r"[^\w\s]", "merged_with_previous"), split(r"\d+", "merged_with_next"), split(r"[a-z&&[^aeiou]]{2,}+", "contiguous")]), decoders.Fuse())


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.jsonl").write_text("".join(json.dumps(t) + "\n" for t in TEXTS))
    s = sentencepiece(folder, "spm-bpe", vocab_size=540, model_type="bpe", byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity",
                      remove_extra_whitespaces=False, user_defined_symbols=["<|im_end|>", "the cat"], control_symbols=["<mask>"])
    s = sentencepiece(folder, "spm-unigram", vocab_size=420, model_type="unigram", normalization_rule_tsv=str(rules(folder)), hard_vocab_limit=False)
    (folder / "rules.tsv").unlink()
    for name, t in kinds(charsmap(s)):
        d = json.loads(t.to_str())
        (folder / f"{name}.json").write_text(json.dumps(d, ensure_ascii=False, separators=(",", ":")))
        t = Tokenizer.from_str(json.dumps(d))
        empty = t.encode("").ids
        with (folder / f"{name}.jsonl").open("w") as f:
            around = t.encode("a").ids
            inner = t.encode("a", add_special_tokens=False).ids
            at = next(i for i in range(len(around) + 1) if around[i:i + len(inner)] == inner and len(around) - i >= len(inner))
            before, after = around[:at], around[at + len(inner):]
            assert empty == before + after, name
            print(json.dumps({"before": before, "after": after}), file=f)
            for text in TEXTS:
                t.encode_special_tokens = False
                ids = t.encode(text, add_special_tokens=False).ids
                assert t.encode(text).ids == before + ids + after, (name, text)
                t.encode_special_tokens = True
                plain = t.encode(text, add_special_tokens=False).ids
                row = {"ids": ids}
                if plain != ids:
                    row["plain"] = plain
                if isinstance(t.model, models.Unigram) and any(s in text for s in ("<s>", "</s>", "<unk>")):
                    row["plain"] = None  # HF finds control tokens in plain text here; SentencePiece and we do not
                row["text"] = t.decode(ids, skip_special_tokens=False)
                hidden = t.decode(ids, skip_special_tokens=True)
                if hidden != row["text"]:
                    row["hidden"] = hidden
                if row["text"] == text:
                    del row["text"]
                print(json.dumps(row, ensure_ascii=True, separators=(",", ":")), file=f)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data" / "tokenizers")
