//! From a prompt to the token ids that CLIP reads.

use std::collections::BTreeMap;

use ndarray::Array2;
use serde_json::{Map, Value};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

/// What splits a prompt into words before byte pairs are merged: special tokens, English contractions, runs of letters, single
/// digits, runs of anything else.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// transformers writes 10^30 where a tokenizer has no length of its own; nothing above this is meant as one.
const NO_LENGTH: f64 = 1e9;

const TOKENIZER_JSON: &str = "tokenizer.json";
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";

/// The special tokens a folder may name, in the order in which transformers registers them.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Contents of the files of a `tokenizer` folder; `None` for one that is not there.
///
/// Bytes rather than paths, so that a model may be part of the program.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`: vocabulary and merges in one file. Goes before the next two.
    pub tokenizer_json: Option<&'a [u8]>,
    /// `vocab.json`: an object from token to id.
    pub vocab: Option<&'a [u8]>,
    /// `merges.txt`: a pair of tokens a line, the most frequent first.
    pub merges: Option<&'a [u8]>,
    /// `tokenizer_config.json`: length and special tokens.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`: special tokens, before those of `tokenizer_config.json`.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `added_tokens.json`: an object from token to id, for tokens that are not in the vocabulary.
    pub added_tokens: Option<&'a [u8]>,
}

/// CLIP's tokenizer: byte pair encoding of lower-cased words, cut or padded to the text encoder's length.
///
/// The ids are those of transformers' `CLIPTokenizer` (version 5) called with `padding="max_length", truncation=True`. As
/// there, `tokenizer.json` gives vocabulary, merges and added tokens, and the pipeline round them is CLIP's own: NFC, white
/// space collapsed, lower case, split into words, bytes, byte pairs with `</w>` at the end of a word. No text is unknown to
/// it. The special tokens are matched in the prompt before it is split, so where the pad token is `!` (Stable Diffusion 2)
/// every `!` of the prompt becomes that token.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    pipeline: tokenizers::Tokenizer,
    begin: u32,
    end: u32,
    pad: u32,
    length: usize,
    vocabulary: usize,
}

/// A prompt as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// [`Tokenizer::length`] ids: begin token, prompt, end token, pad tokens.
    pub ids: Vec<u32>,
    /// How many of the ids stand before the padding, begin and end token among them: at least 2.
    pub used: usize,
    /// The end of the prompt, from the first token for which there was no room; `None` if all of it was kept.
    pub truncated: Option<String>,
}

impl EncodedPrompt {
    /// Returns the ids as a batch of one, `[1, length]`.
    pub fn to_batch(&self) -> Array2<u32> {
        Array2::from_shape_fn((1, self.ids.len()), |(_, i)| self.ids[i])
    }
}

/// What can be wrong with a tokenizer's files, or with a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file that is needed is not there.
    #[error("{file} is missing: a tokenizer needs tokenizer.json, or vocab.json and merges.txt")]
    Missing {
        /// The file's name.
        file: &'static str,
    },
    /// A file is not JSON.
    #[error("{file} is not valid JSON")]
    Json {
        /// The file's name.
        file: &'static str,
        /// Where it goes wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A value has another type or range than it should.
    #[error("{file}: `{key}` should be {wanted}, found {found}")]
    Value {
        /// The file's name.
        file: &'static str,
        /// The key, with the path to it.
        key: String,
        /// What it should be.
        wanted: &'static str,
        /// What it is, as JSON, cut if it is long.
        found: String,
    },
    /// A setting that changes the ids in a way this crate does not support.
    #[error("{file}: `{key}` = {found} is not supported, only {supported} is")]
    Unsupported {
        /// The file's name.
        file: &'static str,
        /// The key.
        key: &'static str,
        /// Its value, as JSON, cut if it is long.
        found: String,
        /// The values that are supported.
        supported: &'static str,
    },
    /// A line of `merges.txt` is not a pair of tokens.
    #[error("{MERGES}: line {line} should be two tokens with a space between them, found {found:?}")]
    Merge {
        /// The line's number, from 1.
        line: usize,
        /// The line, cut if it is long.
        found: String,
    },
    /// The vocabulary and the merges do not go together.
    #[error("the vocabulary and the merges of the tokenizer do not go together")]
    Vocabulary(#[source] tokenizers::Error),
    /// A special token has no id, or another one than the folder says.
    #[error("{file}: token {token:?} should have id {wanted}, but the vocabulary gives it {found}")]
    TokenId {
        /// The file that names the id.
        file: &'static str,
        /// The token.
        token: String,
        /// The id the file says.
        wanted: u64,
        /// The id it has.
        found: u32,
    },
    /// A special token is not in the vocabulary.
    #[error("the tokenizer's {role} {token:?} is not in its vocabulary")]
    SpecialToken {
        /// Which special token: `bos_token`, `eos_token` or `pad_token`.
        role: &'static str,
        /// Its text.
        token: String,
    },
    /// The tokenizer's length and the text encoder's do not go together.
    #[error(
        "{CONFIG}: `model_max_length` is {length}, but the text encoder reads between 2 and {positions} tokens \
         (`max_position_embeddings`): make them equal"
    )]
    Length {
        /// The tokenizer's length.
        length: usize,
        /// The text encoder's number of positions.
        positions: usize,
    },
    /// The text could not be split: a fault of the regular expressions' engine, not met in practice.
    #[error("the prompt could not be split into tokens")]
    Encode(#[source] tokenizers::Error),
}

impl Tokenizer {
    /// Builds the tokenizer of a folder.
    ///
    /// `max_position_embeddings` is the text encoder's: the length prompts are padded to where the folder names none (or
    /// one of 10^30, which is how transformers writes "none").
    ///
    /// Special tokens are looked for in `special_tokens_map.json`, then in `tokenizer_config.json`, then are CLIP's own; in a
    /// folder whose `tokenizer_config.json` lists `added_tokens_decoder` the map is not read, as in transformers (there the
    /// two say the same). They may be strings or objects with a `content`.
    ///
    /// # Errors
    /// [`TokenizerError`] if files are missing or broken, if a special token has no id, if the length is below 2 or above
    /// `max_position_embeddings`, or if a setting is not supported: another class than CLIP's, truncation or padding on the
    /// left, no begin or end token, special tokens split like other text.
    pub fn from_files(
        files: &TokenizerFiles<'_>,
        max_position_embeddings: usize,
    ) -> Result<Self, TokenizerError> {
        let config = object(CONFIG, files.tokenizer_config)?.unwrap_or_default();
        refuse_unsupported(&config)?;
        let length = length(&config, max_position_embeddings)?;

        let Source { vocab, merges, added } = Source::read(files)?;
        let vocabulary = vocab.values().copied().max().map_or(0, |id| id as usize + 1);
        let special = SpecialTokens::read(files, &config, added)?;
        for role in ["bos_token", "eos_token", "pad_token"] {
            let token = special.named(role);
            // It would get the next free id, for which no embedding was trained.
            if !vocab.contains_key(token) && !special.ids.values().any(|(_, listed)| listed == token) {
                return Err(TokenizerError::SpecialToken { role, token: token.to_owned() });
            }
        }

        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix("</w>".to_owned())
            .unk_token(special.named("unk_token").to_owned())
            .build()
            .map_err(TokenizerError::Vocabulary)?;
        let mut pipeline = tokenizers::Tokenizer::new(model);
        let collapse = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ");
        let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true);
        pipeline
            .with_normalizer(Some(Normalizers::new(vec![
                NFC.into(),
                collapse.map_err(TokenizerError::Vocabulary)?.into(),
                Lowercase.into(),
            ])))
            .map_err(TokenizerError::Vocabulary)?
            .with_pre_tokenizer(Some(PreTokenizers::new(vec![
                words.map_err(TokenizerError::Vocabulary)?.into(),
                ByteLevel::new(false, true, true).into(),
            ])));
        pipeline.add_tokens(special.tokens.iter().cloned()).map_err(TokenizerError::Vocabulary)?;

        for (id, (file, token)) in &special.ids {
            match pipeline.token_to_id(token) {
                Some(found) if u64::from(found) != *id => {
                    return Err(TokenizerError::TokenId { file, token: token.clone(), wanted: *id, found });
                }
                _ => {}
            }
        }
        let id = |role| {
            let token = special.named(role);
            let id = pipeline.token_to_id(token);
            id.ok_or_else(|| TokenizerError::SpecialToken { role, token: token.to_owned() })
        };
        let (begin, end, pad) = (id("bos_token")?, id("eos_token")?, id("pad_token")?);
        let highest =
            pipeline.get_added_tokens_decoder().keys().copied().max().map_or(0, |id| id as usize + 1);
        Ok(Self { pipeline, begin, end, pad, length, vocabulary: vocabulary.max(highest) })
    }

    /// Returns the number of ids every prompt is cut or padded to.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Returns the id that stands before every prompt.
    pub fn begin_id(&self) -> u32 {
        self.begin
    }

    /// Returns the id that stands behind every prompt.
    pub fn end_id(&self) -> u32 {
        self.end
    }

    /// Returns the id that fills a prompt up to [`Self::length`].
    pub fn pad_id(&self) -> u32 {
        self.pad
    }

    /// Returns the smallest number above every id that [`Self::encode`] can give: rows the text encoder must have.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary
    }

    /// Turns a prompt into ids.
    ///
    /// A prompt of more than `length - 2` tokens keeps its beginning and the end token; what was cut is in
    /// [`EncodedPrompt::truncated`].
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] if the regular expressions' engine gives up.
    pub fn encode(&self, prompt: &str) -> Result<EncodedPrompt, TokenizerError> {
        let encoding = self.pipeline.encode(prompt, false).map_err(TokenizerError::Encode)?;
        let room = self.length - 2;
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.begin);
        ids.extend(encoding.get_ids().iter().take(room));
        ids.push(self.end);
        let used = ids.len();
        ids.resize(self.length, self.pad);

        let truncated = encoding.get_offsets().get(room).map(|&(start, _)| {
            // A token may begin inside a character that takes several bytes.
            let start =
                (0..=start.min(prompt.len())).rev().find(|&i| prompt.is_char_boundary(i)).unwrap_or(0);
            prompt[start..].to_owned()
        });
        Ok(EncodedPrompt { ids, used, truncated })
    }
}

/// Vocabulary, merges and added tokens, from `tokenizer.json` or from the older pair of files.
struct Source {
    vocab: Vocab,
    merges: Vec<(String, String)>,
    added: Vec<Value>,
}

impl Source {
    fn read(files: &TokenizerFiles<'_>) -> Result<Self, TokenizerError> {
        if let Some(json) = object(TOKENIZER_JSON, files.tokenizer_json)? {
            return Self::from_json(json);
        }
        let missing = |file| TokenizerError::Missing { file };
        let vocab = object(VOCAB, files.vocab)?.ok_or_else(|| {
            // With neither pair nor single file the folder is most likely not a tokenizer's at all.
            missing(if files.merges.is_some() { VOCAB } else { TOKENIZER_JSON })
        })?;
        let merges = files.merges.ok_or_else(|| missing(MERGES))?;
        Ok(Self { vocab: vocabulary(VOCAB, &vocab)?, merges: parse_merges(merges)?, added: Vec::new() })
    }

    fn from_json(mut json: Map<String, Value>) -> Result<Self, TokenizerError> {
        let file = TOKENIZER_JSON;
        let model = match json.get("model") {
            Some(Value::Object(model)) => model,
            other => return Err(wrong(file, "model", "an object", other)),
        };
        for (key, wanted, supported) in
            [("type", "BPE", "\"BPE\""), ("end_of_word_suffix", "</w>", "\"</w>\", as CLIP has it")]
        {
            let found = model.get(key);
            // Files older than the key `type` leave it out.
            if found.and_then(Value::as_str) != Some(wanted) && !(key == "type" && found.is_none()) {
                return Err(unsupported(file, key, found, supported));
            }
        }
        let vocab = match model.get("vocab") {
            Some(Value::Object(vocab)) => vocabulary(file, vocab)?,
            other => return Err(wrong(file, "model.vocab", "an object from token to id", other)),
        };
        let Some(Value::Array(list)) = model.get("merges") else {
            return Err(wrong(file, "model.merges", "a list", model.get("merges")));
        };
        let merges = list.iter().enumerate().map(|(i, merge)| {
            let pair = match merge {
                Value::String(pair) => pair.split_once(' '),
                Value::Array(pair) => match pair.as_slice() {
                    [Value::String(a), Value::String(b)] => Some((a.as_str(), b.as_str())),
                    _ => None,
                },
                _ => None,
            };
            pair.map(|(a, b)| (a.to_owned(), b.to_owned()))
                .ok_or_else(|| wrong(file, &format!("model.merges[{i}]"), "a pair of tokens", Some(merge)))
        });
        let merges = merges.collect::<Result<_, _>>()?;
        let added = match json.remove("added_tokens") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => list,
            other => return Err(wrong(file, "added_tokens", "a list", other.as_ref())),
        };
        Ok(Self { vocab, merges, added })
    }
}

/// The tokens that are matched in a prompt before it is split into words.
struct SpecialTokens {
    /// In the order in which they are registered.
    tokens: Vec<AddedToken>,
    /// Text of the special tokens by role.
    roles: BTreeMap<&'static str, String>,
    /// Ids that files state, to be checked: id -> (file, text).
    ids: BTreeMap<u64, (&'static str, String)>,
}

impl SpecialTokens {
    fn read(
        files: &TokenizerFiles<'_>,
        config: &Map<String, Value>,
        added: Vec<Value>,
    ) -> Result<Self, TokenizerError> {
        let mut listed = BTreeMap::new();
        let mut ids = BTreeMap::new();
        let mut settings: BTreeMap<&str, (&'static str, Value)> =
            config.iter().map(|(key, value)| (key.as_str(), (CONFIG, value.clone()))).collect();
        let map = object(SPECIAL_TOKENS, files.special_tokens_map)?.unwrap_or_default();

        if let Some(decoder) = config.get("added_tokens_decoder") {
            let wanted = "an object from id to token";
            let decoder = decoder
                .as_object()
                .ok_or_else(|| wrong(CONFIG, "added_tokens_decoder", wanted, Some(decoder)))?;
            for (id, token) in decoder {
                let key = format!("added_tokens_decoder.{id}");
                let id = id.parse().map_err(|_| wrong(CONFIG, &key, "named by an id", Some(token)))?;
                let token = added_token(CONFIG, &key, token, false)?;
                ids.insert(id, (CONFIG, token.content.clone()));
                listed.insert(id, token);
            }
        } else {
            for (key, value) in &map {
                settings.insert(key, (SPECIAL_TOKENS, value.clone()));
            }
            for (text, id) in object(ADDED_TOKENS, files.added_tokens)?.unwrap_or_default() {
                let id = id.as_u64().ok_or_else(|| wrong(ADDED_TOKENS, &text, "an id", Some(&id)))?;
                let special = settings.values().any(|(_, v)| text_of(v) == Some(&text));
                ids.insert(id, (ADDED_TOKENS, text.clone()));
                listed.insert(id, AddedToken::from(text, special));
            }
            for (i, token) in added.iter().enumerate() {
                let key = format!("added_tokens[{i}]");
                let id = token.get("id").and_then(Value::as_u64);
                let id =
                    id.ok_or_else(|| wrong(TOKENIZER_JSON, &format!("{key}.id"), "an id", Some(token)))?;
                let token = added_token(TOKENIZER_JSON, &key, token, false)?;
                ids.insert(id, (TOKENIZER_JSON, token.content.clone()));
                listed.insert(id, token);
            }
        }

        let mut tokens: Vec<AddedToken> = listed.into_values().collect();
        let mut roles = BTreeMap::new();
        let mut named = Vec::new();
        for role in NAMED {
            match settings.get(role) {
                Some((file, value)) if !value.is_null() => {
                    let token = added_token(file, role, value, true)?;
                    roles.insert(role, token.content.clone());
                    named.push(token);
                }
                _ => {
                    let default = match role {
                        "bos_token" => "<|startoftext|>",
                        "eos_token" | "unk_token" | "pad_token" => "<|endoftext|>",
                        _ => continue,
                    };
                    roles.insert(role, default.to_owned());
                    named.push(AddedToken::from(default, true));
                }
            }
        }
        for key in ["extra_special_tokens", "additional_special_tokens"] {
            match settings.get(key) {
                None | Some((_, Value::Null)) => {}
                Some((file, Value::Array(list))) => {
                    for (i, token) in list.iter().enumerate() {
                        named.push(added_token(file, &format!("{key}[{i}]"), token, true)?);
                    }
                }
                Some((file, Value::Object(map))) => {
                    for (name, token) in map {
                        named.push(added_token(file, &format!("{key}.{name}"), token, true)?);
                    }
                }
                Some((file, other)) => return Err(wrong(file, key, "a list of tokens", Some(other))),
            }
        }
        // One text may have several roles with different flags: transformers lets what files list go first, then the last role.
        let mut distinct: Vec<AddedToken> = Vec::new();
        for token in named {
            if let Some(known) = tokens.iter_mut().find(|known| known.content == token.content) {
                known.special = true;
            } else if !distinct.contains(&token) {
                distinct.push(token);
            }
        }
        for (i, token) in distinct.iter().enumerate() {
            if !distinct[i + 1..].iter().any(|later| later.content == token.content) {
                tokens.push(token.clone());
            }
        }
        Ok(Self { tokens, roles, ids })
    }

    fn named(&self, role: &str) -> &str {
        self.roles.get(role).map_or("", String::as_str)
    }
}

fn object(file: &'static str, bytes: Option<&[u8]>) -> Result<Option<Map<String, Value>>, TokenizerError> {
    let Some(bytes) = bytes else { return Ok(None) };
    match serde_json::from_slice(bytes).map_err(|source| TokenizerError::Json { file, source })? {
        Value::Object(map) => Ok(Some(map)),
        other => Err(wrong(file, "the whole file", "an object", Some(&other))),
    }
}

fn vocabulary(file: &'static str, vocab: &Map<String, Value>) -> Result<Vocab, TokenizerError> {
    vocab
        .iter()
        .map(|(token, id)| match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(number) => Ok((token.clone(), number)),
            None => Err(wrong(file, token, "an id", Some(id))),
        })
        .collect()
}

fn parse_merges(bytes: &[u8]) -> Result<Vec<(String, String)>, TokenizerError> {
    let text = String::from_utf8_lossy(bytes);
    let lines =
        text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"));
    lines
        .map(|(i, line)| match line.split_once(' ') {
            Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains(' ') => {
                Ok((a.to_owned(), b.to_owned()))
            }
            _ => Err(TokenizerError::Merge { line: i + 1, found: line.chars().take(60).collect() }),
        })
        .collect()
}

fn length(config: &Map<String, Value>, positions: usize) -> Result<usize, TokenizerError> {
    let wanted = "a whole number";
    let value = ["model_max_length", "max_len"].iter().find_map(|&key| Some((key, config.get(key)?)));
    let length = match value {
        None | Some((_, Value::Null)) => positions,
        Some((_, value)) if value.as_f64().is_some_and(|n| n > NO_LENGTH) => positions,
        Some((key, value)) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(length) => length,
            None => return Err(wrong(CONFIG, key, wanted, Some(value))),
        },
    };
    if (2..=positions).contains(&length) {
        Ok(length)
    } else {
        Err(TokenizerError::Length { length, positions })
    }
}

/// Refuses the settings that change ids and that nothing here implements.
fn refuse_unsupported(config: &Map<String, Value>) -> Result<(), TokenizerError> {
    let refuse =
        |key: &'static str, supported: &'static str, fine: &dyn Fn(&Value) -> bool| match config.get(key) {
            Some(value) if !value.is_null() && !fine(value) => {
                Err(unsupported(CONFIG, key, Some(value), supported))
            }
            _ => Ok(()),
        };
    refuse("tokenizer_class", "CLIPTokenizer", &|v| v == "CLIPTokenizer" || v == "CLIPTokenizerFast")?;
    refuse("padding_side", "\"right\"", &|v| v == "right")?;
    refuse("truncation_side", "\"right\"", &|v| v == "right")?;
    refuse("add_bos_token", "true", &|v| v == true)?;
    refuse("add_eos_token", "true", &|v| v == true)?;
    refuse("split_special_tokens", "false", &|v| v == false)
}

fn text_of(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// Reads a token given as a string or as an object; strings are special tokens.
fn added_token(
    file: &'static str,
    key: &str,
    value: &Value,
    special: bool,
) -> Result<AddedToken, TokenizerError> {
    let text = text_of(value).filter(|text| !text.is_empty());
    let text =
        text.ok_or_else(|| wrong(file, key, "a token, or an object with its `content`", Some(value)))?;
    let flag = |name: &str, default| match value.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        other => Err(wrong(file, &format!("{key}.{name}"), "true or false", other)),
    };
    let special = special || flag("special", false)?;
    Ok(AddedToken::from(text, special)
        .lstrip(flag("lstrip", false)?)
        .rstrip(flag("rstrip", false)?)
        .single_word(flag("single_word", false)?)
        .normalized(flag("normalized", !special)?))
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| value.to_string().chars().take(60).collect())
}

fn wrong(file: &'static str, key: &str, wanted: &'static str, found: Option<&Value>) -> TokenizerError {
    TokenizerError::Value { file, key: key.to_owned(), wanted, found: shown(found) }
}

fn unsupported(
    file: &'static str,
    key: &'static str,
    found: Option<&Value>,
    supported: &'static str,
) -> TokenizerError {
    TokenizerError::Unsupported { file, key, found: shown(found), supported }
}
