"""The tokenizer: CLIP's byte-level BPE with a vocabulary of our own."""

import json
import re
from collections import Counter

from transformers import CLIPTokenizer

LENGTH = 24
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_letters():
    """The letter that byte-level BPE writes for each byte (as in GPT-2 and CLIP)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


def learn(captions, most_merges=400):
    """Learns merges until every word of the captions is one token. Returns (vocabulary, merges)."""
    words = Counter(word for caption in captions for word in re.findall(r"[a-z]+|[^\sa-z]+", caption.lower()))
    spelled = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges = []
    while len(merges) < most_merges:
        pairs = Counter()
        for word, letters in spelled.items():
            for pair in zip(letters, letters[1:]):
                pairs[pair] += words[word]
        if not pairs:
            break
        # The first in the alphabet among equals: the result does not depend on the order of the captions.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, letters in spelled.items():
            joined, i = [], 0
            while i < len(letters):
                if letters[i : i + 2] == best:
                    joined.append("".join(best))
                    i += 2
                else:
                    joined.append(letters[i])
                    i += 1
            spelled[word] = tuple(joined)
    letters = byte_letters()
    tokens = letters + [l + "</w>" for l in letters] + ["".join(m) for m in merges] + [START, END]
    return {token: i for i, token in enumerate(tokens)}, merges


def save(folder, captions):
    """Learns a tokenizer and writes it in the Hugging Face layout."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = learn(captions)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    options = {"unk_token": END, "bos_token": START, "eos_token": END, "pad_token": END}
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=LENGTH, **options
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def load(folder):
    return CLIPTokenizer.from_pretrained(folder)


def tokens(tokenizer, captions):
    """`[len(captions), LENGTH]` token numbers."""
    options = {"padding": "max_length", "truncation": True, "max_length": LENGTH, "return_tensors": "pt"}
    return tokenizer(captions, **options).input_ids
