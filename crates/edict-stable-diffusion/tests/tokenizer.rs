//! The tokenizer against ids that transformers wrote (see `tests/golden/README.md`).

use std::fs;
use std::path::PathBuf;

use edict_stable_diffusion::{Tokenizer, TokenizerError, TokenizerFiles};
use serde_json::{Value, json};

const POSITIONS: usize = 77;

/// A tokenizer folder in memory.
#[derive(Clone, Default)]
struct Folder {
    files: Vec<(String, Vec<u8>)>,
}

impl Folder {
    fn golden(relative: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(relative)
    }

    fn of_model(name: &str) -> Self {
        let folder = Self::golden("models").join(name).join("tokenizer");
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder).expect("the tiny models are part of the repository") {
            let entry = entry.unwrap();
            files.push((entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()));
        }
        Self { files }
    }

    fn with(mut self, name: &str, content: Option<&Value>) -> Self {
        self.files.retain(|(known, _)| known != name);
        if let Some(content) = content {
            self.files.push((name.to_owned(), content.to_string().into_bytes()));
        }
        self
    }

    fn with_bytes(mut self, name: &str, content: &[u8]) -> Self {
        self.files.retain(|(known, _)| known != name);
        self.files.push((name.to_owned(), content.to_vec()));
        self
    }

    fn config(&self) -> Value {
        serde_json::from_slice(self.get("tokenizer_config.json").unwrap()).unwrap()
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes.as_slice())
    }

    fn open(&self) -> Result<Tokenizer, TokenizerError> {
        let files = TokenizerFiles {
            tokenizer_json: self.get("tokenizer.json"),
            vocab: self.get("vocab.json"),
            merges: self.get("merges.txt"),
            tokenizer_config: self.get("tokenizer_config.json"),
            special_tokens_map: self.get("special_tokens_map.json"),
            added_tokens: self.get("added_tokens.json"),
        };
        Tokenizer::from_files(&files, POSITIONS)
    }
}

#[test]
fn gives_the_ids_of_transformers_for_every_kind_of_folder() {
    let golden: Value =
        serde_json::from_slice(&fs::read(Folder::golden("data/tokens.json")).unwrap()).unwrap();
    let prompts: Vec<&str> =
        golden["prompts"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    let mut compared = 0;
    let mut wrong = Vec::new();
    for (name, variant) in golden["variants"].as_object().unwrap() {
        let mut folder = Folder::of_model(variant["base"].as_str().unwrap());
        for (file, content) in variant["files"].as_object().unwrap() {
            folder = folder.with(file, Some(content).filter(|content| !content.is_null()));
        }
        let tokenizer = folder.open().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(Some(tokenizer.length() as u64), variant["length"].as_u64(), "{name}");
        assert_eq!(Some(u64::from(tokenizer.pad_id())), variant["pad"].as_u64(), "{name}");
        for (prompt, ids) in prompts.iter().zip(variant["ids"].as_array().unwrap()) {
            let mut expected: Vec<u32> =
                ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            let used = expected.len();
            expected.resize(tokenizer.length(), tokenizer.pad_id());
            let found = tokenizer.encode(prompt).unwrap();
            if found.ids != expected || found.used != used {
                wrong.push(format!(
                    "{name}: {prompt:?}\n  wanted {:?}\n  found  {:?}",
                    &expected[..used],
                    &found.ids[..found.used]
                ));
            }
            assert!(
                found.ids.iter().all(|&id| (id as usize) < tokenizer.vocabulary_size()),
                "{name}: {prompt:?}"
            );
            compared += 1;
        }
    }
    assert!(compared > 4000, "only {compared} prompts were compared");
    assert!(wrong.is_empty(), "{} of {compared} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn says_what_was_cut() {
    let tokenizer = Folder::of_model("tiny-sd1").open().unwrap();
    let fits = "a ".repeat(75);
    let encoded = tokenizer.encode(&fits).unwrap();
    assert_eq!((encoded.used, encoded.truncated), (77, None));

    let long = format!("{fits}red Circle,  and more");
    let encoded = tokenizer.encode(&long).unwrap();
    assert_eq!(encoded.ids.len(), 77);
    assert_eq!(encoded.ids.last(), Some(&tokenizer.end_id()), "a cut prompt keeps its end token");
    assert_eq!(encoded.truncated.as_deref(), Some("red Circle,  and more"));
}

#[test]
fn cuts_inside_a_character_without_a_panic() {
    let tokenizer = Folder::of_model("tiny-legacy").open().unwrap();
    for before in 70..76 {
        // Each of these characters takes several tokens, and NFC changes the lengths of some.
        let prompt = format!("{}😀漢e\u{301}\u{344}İ😀 tail", "a ".repeat(before));
        let encoded = tokenizer.encode(&prompt).unwrap();
        let cut = encoded.truncated.expect("too long for 77 tokens");
        assert!(prompt.ends_with(&cut) && !cut.is_empty(), "{cut:?}");
    }
}

#[test]
fn names_the_missing_file() {
    let legacy = Folder::of_model("tiny-legacy");
    for (file, wanted) in [("vocab.json", "vocab.json"), ("merges.txt", "merges.txt")] {
        let error = legacy.clone().with(file, None).open().unwrap_err();
        assert!(error.to_string().starts_with(&format!("{wanted} is missing")), "{error}");
    }
    assert!(matches!(Folder::default().open(), Err(TokenizerError::Missing { file: "tokenizer.json" })));
}

#[test]
fn refuses_broken_files_by_name() {
    let new = Folder::of_model("tiny-sd1");
    let legacy = Folder::of_model("tiny-legacy");
    let config = |change: Value| {
        let mut config = legacy.config();
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        legacy.clone().with("tokenizer_config.json", Some(&config))
    };
    let cases = [
        (new.clone().with_bytes("tokenizer.json", b"{\"model\":"), "tokenizer.json is not valid JSON"),
        (new.clone().with_bytes("tokenizer_config.json", b"\xff"), "tokenizer_config.json is not valid JSON"),
        (new.clone().with("tokenizer.json", Some(&json!([]))), "should be an object"),
        (
            new.clone().with("tokenizer.json", Some(&json!({"model": {"type": "Unigram"}}))),
            "`type` = \"Unigram\"",
        ),
        (
            new.clone()
                .with("tokenizer.json", Some(&json!({"model": {"type": "BPE", "end_of_word_suffix": null}}))),
            "`end_of_word_suffix` = null",
        ),
        (
            new.clone().with(
                "tokenizer.json",
                Some(&json!({"model": {"end_of_word_suffix": "</w>", "vocab": {"a": -1}, "merges": []}})),
            ),
            "`a` should be an id, found -1",
        ),
        (
            new.clone().with(
                "tokenizer.json",
                Some(&json!({"model": {"end_of_word_suffix": "</w>", "vocab": {"a": 1}, "merges": [["a"]]}})),
            ),
            "`model.merges[0]` should be a pair",
        ),
        (legacy.clone().with_bytes("merges.txt", b"#version: 0.2\na b\nabc\n"), "merges.txt: line 3"),
        (legacy.clone().with_bytes("merges.txt", b"qq zz\n"), "do not go together"),
        (legacy.clone().with_bytes("vocab.json", b"[]"), "vocab.json: `the whole file`"),
        (
            legacy.clone().with("special_tokens_map.json", Some(&json!({"pad_token": 3}))),
            "special_tokens_map.json",
        ),
        (
            legacy.clone().with("special_tokens_map.json", Some(&json!({"pad_token": "<pad>"}))),
            "pad_token \"<pad>\" is not in its vocabulary",
        ),
        (
            legacy.clone().with("added_tokens.json", Some(&json!({"<new>": 700}))),
            "\"<new>\" should have id 700",
        ),
        (config(json!({"model_max_length": 0})), "`model_max_length` is 0"),
        (config(json!({"model_max_length": 78})), "`model_max_length` is 78"),
        (config(json!({"model_max_length": "long"})), "should be a whole number"),
        (config(json!({"model_max_length": 7.5})), "should be a whole number"),
    ];
    for (folder, wanted) in cases {
        let error = folder.open().expect_err(wanted);
        assert!(error.to_string().contains(wanted), "wanted {wanted:?}, found {error}");
    }
}

#[test]
fn refuses_settings_it_does_not_support() {
    let folder = Folder::of_model("tiny-sd1");
    for (key, value) in [
        ("tokenizer_class", json!("T5Tokenizer")),
        ("padding_side", json!("left")),
        ("truncation_side", json!("left")),
        ("add_bos_token", json!(false)),
        ("add_eos_token", json!(false)),
        ("split_special_tokens", json!(true)),
    ] {
        let mut config = folder.config();
        config[key] = value;
        let error = folder.clone().with("tokenizer_config.json", Some(&config)).open().expect_err(key);
        assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
    }
}

/// Every key of the tiny models' tokenizer configurations changes the ids, is refused, or stands on the list of those without
/// effect.
#[test]
fn every_key_is_honoured_refused_or_known_to_have_no_effect() {
    let without_effect = [
        ("backend", "which library transformers uses; the ids are the same"),
        ("do_lower_case", "CLIP's pipeline always lowers; transformers reads no such key for this class"),
        (
            "add_prefix_space",
            "CLIP's split drops spaces; transformers does not pass the key on for this class",
        ),
        ("errors", "how bytes are decoded to text, which is never done here"),
        ("unk_token", "every byte is in the vocabulary, so nothing is unknown"),
    ];
    let other = |key: &str| match key {
        "model_max_length" => json!(40),
        "bos_token" | "eos_token" | "pad_token" | "unk_token" => json!("red</w>"),
        "tokenizer_class" => json!("BertTokenizer"),
        "backend" => json!("custom"),
        "do_lower_case" => json!(false),
        "add_prefix_space" => json!(true),
        "errors" => json!("strict"),
        _ => panic!("a key without another value: {key}"),
    };
    let prompt = "A red circle, <|endoftext|> café!";
    for model in ["tiny-sd1", "tiny-sd2", "tiny-legacy"] {
        // The map would hide the configuration's tokens.
        let folder = Folder::of_model(model).with("special_tokens_map.json", None);
        let before = folder.open().unwrap().encode(prompt).unwrap().ids;
        let config = folder.config();
        for key in config.as_object().unwrap().keys() {
            let mut config = config.clone();
            config[key] = other(key);
            let changed = match folder.clone().with("tokenizer_config.json", Some(&config)).open() {
                Ok(tokenizer) => tokenizer.encode(prompt).unwrap().ids != before,
                Err(error) => {
                    assert!(error.to_string().contains(key), "{error}");
                    true
                }
            };
            let listed = without_effect.iter().any(|(known, _)| known == key);
            assert!(changed != listed, "{model}: `{key}` changes the ids: {changed}, on the list: {listed}");
        }
    }
}
