"""Writes data/tokens.json: what transformers' CLIPTokenizer makes of many prompts, for several kinds of tokenizer folder.

    python tokens.py            rewrite data/tokens.json
    python tokens.py --check    compare it with what the installed transformers says

Every id in the file comes from transformers (see requirements.txt). A variant is one of the tiny models' tokenizer folders,
some files of which are left out (null) or replaced; the file holds the replacements, so that a reader can build the same folder.
Ids are kept without their padding: the generator checks that what follows is the pad token up to the length.
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import transformers
from transformers import CLIPTokenizer

HERE = Path(__file__).resolve().parent
TARGET = HERE / "data" / "tokens.json"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def entry(content, normalized):
    return {"content": content, "lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False}


# The special_tokens_map.json that Stable Diffusion 1 and 2 folders carry; they differ in the pad token alone.
def special_map(pad):
    return {"bos_token": entry(BEGIN, True), "eos_token": entry(END, True), "pad_token": pad, "unk_token": entry(END, True)}


# The tokenizer_config.json of their time, with objects in place of strings.
CONFIG_2022 = {
    "add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77,
    "name_or_path": "openai/clip-vit-large-patch14", "pad_token": END, "tokenizer_class": "CLIPTokenizer",
    "special_tokens_map_file": "./special_tokens_map.json",
    "bos_token": {"__type": "AddedToken", **entry(BEGIN, True)},
    "eos_token": {"__type": "AddedToken", **entry(END, True)},
    "unk_token": {"__type": "AddedToken", **entry(END, True)},
}
# And of 2023, when every added token was listed with its id.
CONFIG_2023 = {
    "add_prefix_space": False, "bos_token": BEGIN, "clean_up_tokenization_spaces": True, "do_lower_case": True, "eos_token": END,
    "errors": "replace", "model_max_length": 77, "pad_token": "!", "tokenizer_class": "CLIPTokenizer", "unk_token": END,
    "added_tokens_decoder": {
        "0": {**entry("!", False), "special": True},
        "647": {**entry(BEGIN, True), "special": True},
        "648": {**entry(END, True), "special": True},
    },
}
HUGE = 1000000000000000019884624838656

# name -> (base model, files replaced or left out)
VARIANTS = {
    "tiny-sd1": ("tiny-sd1", {}),
    "tiny-legacy": ("tiny-legacy", {}),
    "sd1-2022": ("tiny-sd1", {"tokenizer.json": None, "special_tokens_map.json": special_map(END), "tokenizer_config.json": CONFIG_2022}),
    "sd2-2022": ("tiny-sd1", {"tokenizer.json": None, "special_tokens_map.json": special_map("!"), "tokenizer_config.json": CONFIG_2022}),
    "sd2-2023": ("tiny-sd1", {"tokenizer.json": None, "special_tokens_map.json": special_map("!"), "tokenizer_config.json": CONFIG_2023}),
    "sd2-fast": ("tiny-sd1", {"special_tokens_map.json": special_map("!")}),
    "pad-in-config": ("tiny-legacy", {"special_tokens_map.json": None}),
    "sparse": ("tiny-legacy", {"special_tokens_map.json": None, "tokenizer_config.json": {"model_max_length": HUGE}}),
    "bare": ("tiny-legacy", {"special_tokens_map.json": None, "tokenizer_config.json": None}),
    "short": ("tiny-sd1", {"tokenizer_config.json": {"model_max_length": 12, "tokenizer_class": "CLIPTokenizer"}}),
    "extra-tokens": ("tiny-sd1", {"tokenizer_config.json": {
        "model_max_length": 77, "additional_special_tokens": ["striped", {"__type": "AddedToken", **entry("red ball", True)}],
        "tokenizer_class": "CLIPTokenizer"}}),
    "stripping": ("tiny-legacy", {"special_tokens_map.json": {
        **special_map("!"), "pad_token": {**entry("!", False), "lstrip": True, "rstrip": True}}}),
    "single-word": ("tiny-legacy", {"special_tokens_map.json": {**special_map("!"), "pad_token": {**entry("o", False), "single_word": True}}}),
}

PROMPTS = """
a photo of a cat
a red circle on a striped background
A LARGE Yellow Square, on a CHECKERED background
small green triangle
don't stop
DON'T STOP
it's we're they've I'm you'll he'd
'S 'T 'RE 'VE 'M 'LL 'D
's't're've'm'll'd
rock'n'roll o'clock 'twas '' ''' `'` ’s don’t
1 12 123 1234567890 3.14 1e-5 0x1f 2x4 50mm f/1.8
½ ¼ ² ³ ① Ⅷ ٣ १२३ 𝟙𝟚
hello, world
hello,world;foo:bar?baz
...
?!
!?
cat!
cat !
cat ! dog
cat!dog
cat! dog
a!!b
!!!
! ! !
!
!!!!!!!!!!!!!!!!
 !cat
wow! a red! circle!!
¡hola!
！
<|startoftext|>
<|endoftext|>
a <|endoftext|> b
a<|endoftext|>b
a  <|startoftext|>  b
<|startoftext|>a red circle<|endoftext|>
<|ENDOFTEXT|>x
<|StartOfText|> red
<|endoftext|><|endoftext|>
<|endoftext| > <| endoftext|>
< |endoftext|>
<|endoftext
|endoftext|>
</w> a</w> red</w>
#version: 0.2
(a:1.2), [b|c], {d} <lora:x:1>
masterpiece, best quality, (highly detailed:1.3), 8k, hdr
--ar 16:9 --v 5
https://example.org/?q=1&r=2#top
user@example.org
C++ C# .NET node.js
snake_case kebab-case camelCase PascalCase
a_b __init__ _
$5.00 €10 £3 ¥100 50% 
a&b a+b a=b a*b a^b a~b a|b a\\b a/b
"quoted" 'single' “curly” ‘single’ «guillemets» 「日本」
em—dash en–dash hy-phen ‐ ‑ ‒
café
cafe\u0301
CAFÉ
naïve façade coöperate
A\u030angstro\u0308m Ångström
e\u0301\u0301 \u0301 \u0301a
Å Å
ﬁ ﬂ ﬀ ŉ ß ẞ
STRASSE straße
İstanbul ISTANBUL ıstanbul
ΑΒΓ αβγ ΣΊΣΥΦΟΣ σς
Привет мир ПРИВЕТ
שלום עולם
مرحبا بالعالم
สวัสดี
नमस्ते दुनिया
你好世界
你好，世界。
こんにちは カタカナ ひらがな
안녕하세요
\u1112\u1161\u11ab\u1100\u1173\u11af
한국어 english 混合 text
𠮷野家
😀
😀😃😄
a 😀 b
👍🏽
👩‍👩‍👧‍👦
🇫🇷🇩🇪
❤️ ❤
☃ ★ ♥ ♪ ✓
∑ ∫ √ ≤ ∞ π
→ ← ⇒
™ ® © ° µ
\u200b zero\u200bwidth \u200d \ufeff
soft\u00adhyphen
non\u00a0breaking \u2003 em \u3000 ideographic
tab\tand\ttab
vertical\u000btab form\u000cfeed \u0085 next \u2028 line \u2029 paragraph
\u001c file \u001f unit
nul\u0000byte
bell\u0007 escape\u001b del\u007f
\u0080\u0081\u009f
\ufffd \ue000 \U0010ffff
\U000e0041
    leading and trailing    
  multiple   spaces    between     words
x
X
 
the
themselves
striped stripedstriped striped-striped striped2 2striped
red ball
a red  ball
RED BALL
o
oo o o, (o) go o.
circlecirclecircle
zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz
ǅ ǆ Ǆ ʰ ª º
\u0600 \u06dd \u0903 \u093e
Ⅷ ⅷ ㈠ ㊀ ༳
ꙮ ᏸ Ꮸ ꭰ Ა ა
𐐀 𐐨 𝒜 𝓐 Ａ ａ １
\u212a \u2126 K Ω
\u1e9b\u0323 \u0344 \u0958 \u2adc
\ufb1d \ufb2c \u0f73
q\u0323\u0307 q\u0307\u0323
ſ ẛ ς
'ſ 'S I'M I’M
a'b a's's 's a ' s
l'avion d'or 'llama 'dog 'rent 'very 'more
""".strip("\n").split("\n")


def prompts():
    out = ["", "line\nbreak", "crlf\r\nline", "\n\n", *PROMPTS]
    words = "a red large striped circle on the left of small yellow checkered triangle background".split()
    for n in (10, 11, 12, 73, 74, 75, 76, 77, 78, 200):
        out.append(" ".join(words[i * 7 % len(words)] for i in range(n)))
    out.append("a " * 74 + "é")
    out.append("a " * 74 + "😀 tail")
    out.append("a " * 75 + "!")
    out.append("a " * 74 + "!!!")
    out.append("!" * 100)
    out.append("漢字" * 60)
    out.append("red, " * 60)
    out.append("a " * 73 + "<|endoftext|> b <|endoftext|> c")
    # A deterministic walk over characters of every sort, three to a prompt and then in longer runs.
    alphabet = list("ab !?'1.<|>\n") + ["é", "e\u0301", "İ", "ß", "你", "א", "😀", "\u200d", "\u00a0", "\u3000", "٣", "²", "_", "-", "<|endoftext|>", "red", "'s", "'LL"]
    state = 1
    for length in [3] * 90 + [8] * 60 + [40] * 20:
        picked = []
        for _ in range(length):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            picked.append(alphabet[(state >> 33) % len(alphabet)])
        out.append("".join(picked))
    return list(dict.fromkeys(out))


def folder(base, changes, parent):
    """Builds a tokenizer folder: the base model's files with `changes` laid over them."""
    target = Path(parent) / "tokenizer"
    shutil.copytree(HERE / "models" / base / "tokenizer", target)
    for name, content in changes.items():
        if content is None:
            (target / name).unlink(missing_ok=True)
        else:
            (target / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return target


def variant(base, changes):
    with tempfile.TemporaryDirectory() as parent:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder(base, changes, parent)))
    length = tokenizer.model_max_length if tokenizer.model_max_length <= 77 else 77
    rows = []
    for prompt in prompts():
        ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=True).input_ids
        whole = tokenizer(prompt).input_ids
        kept = min(len(whole), length)
        assert len(ids) == length and ids[kept:] == [tokenizer.pad_token_id] * (length - kept), (base, prompt)
        rows.append(ids[:kept])
    return {"base": base, "files": changes, "length": length, "pad": tokenizer.pad_token_id, "ids": rows}


def text():
    variants = {name: variant(base, changes) for name, (base, changes) in VARIANTS.items()}
    lines = ["{", f' "transformers": "{transformers.__version__}",', ' "prompts": [']
    lines.append(",\n".join("  " + json.dumps(p) for p in prompts()))
    lines.append(' ],\n "variants": {')
    blocks = []
    for name, v in variants.items():
        rows = ",\n".join("   " + json.dumps(r, separators=(",", ":")) for r in v.pop("ids"))
        head = json.dumps(v)[1:-1]
        blocks.append(f'  "{name}": {{{head}, "ids": [\n{rows}\n  ]}}')
    lines.append(",\n".join(blocks))
    lines.append(" }\n}\n")
    return "\n".join(lines)


def main():
    found = text()
    if "--check" in sys.argv[1:]:
        stored = json.loads(TARGET.read_text(encoding="utf-8"))
        fresh = json.loads(found)
        different = [k for k in ("prompts", "variants") if stored[k] != fresh[k]]
        print("tokens.json:", f"differs in {', '.join(different)}" if different else "agrees")
        sys.exit(bool(different))
    TARGET.write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
