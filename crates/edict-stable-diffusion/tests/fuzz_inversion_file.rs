//! Inversion files and checkpoints after mutations that know the format: an error or a whole inversion, soon, and in little memory.
//!
//! Runs for two seconds; `EDICT_FUZZ_SECONDS=600` for ten minutes, and `EDICT_FUZZ_SEED` other mutations. What libFuzzer runs is
//! in fuzz/, with the same body.
// The allocator that counts is one; it is in no library.
#![allow(unsafe_code)]

mod common;

#[allow(unreachable_pub)]
#[path = "../../../fuzz/body/inversion_file.rs"]
mod body;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use edict_stable_diffusion::{Checkpoint, Inversion};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::Xxh3;

/// Counts what a thread has allocated and not given back, and the most that ever was.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counters left.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call is passed on as it is to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // For a moment there may be both.
        count(size as isize);
        let new = unsafe { System.realloc(pointer, layout, size) };
        count(-(layout.size() as isize));
        new
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Does something, and returns how many bytes it held at once.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let done = work();
    (done, (PEAK.get() - before) as usize)
}

/// Bytes that may be held at once while a file of `length` bytes is read: copies of its tensors, of its metadata as text and as values,
/// and a header's short entries (60 bytes of text) as names, shapes and two tables. Measured: at most 12 times the length.
fn bound(length: usize) -> usize {
    32 * length + 65_536
}

#[test]
fn the_counter_sees_what_is_allocated() {
    let (made, most) = peak(|| {
        let large = vec![1u8; 1_000_000];
        drop(large);
        vec![2u8; 1000]
    });
    assert!((1_000_000..1_001_000).contains(&most), "{most}");
    let (_, most) = peak(|| vec![0u8; 5000]);
    assert_eq!(most, 5000);
    let (_, most) = peak(|| drop(made));
    assert_eq!(most, 0);
}

/// Random numbers: SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn of<'t, T>(&mut self, items: &'t [T]) -> &'t T {
        &items[self.below(items.len())]
    }
}

/// A file taken apart: whatever can be said of a tensor, true or not.
#[derive(Clone)]
struct Parts {
    tensors: Vec<Tensor>,
    /// Texts of the header's metadata.
    notes: BTreeMap<String, String>,
}

#[derive(Clone)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    data: Vec<u8>,
    /// Begin and end as the header says them, where that is not so.
    offsets: Option<[u64; 2]>,
}

impl Parts {
    fn of(bytes: &[u8]) -> Option<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
        let file = SafeTensors::deserialize(bytes).ok()?;
        let tensors = (file.tensors().into_iter())
            .map(|(name, view)| Tensor {
                name,
                dtype: format!("{:?}", view.dtype()),
                shape: view.shape().iter().map(|extent| *extent as u64).collect(),
                data: view.data().to_vec(),
                offsets: None,
            })
            .collect();
        Some(Self { tensors, notes: header.metadata().clone().unwrap_or_default().into_iter().collect() })
    }

    /// Makes the hashes of registers right again: no mutation gets past them by chance.
    fn mend(&mut self) {
        for prefix in ["", "generation."] {
            let named = |name: &str| self.tensors.iter().find(|t| t.name == format!("{prefix}state.{name}"));
            let mut hash = Xxh3::new();
            for name in ["v", "w", "carry"] {
                hash.update(named(name).map_or(&[], |tensor| &tensor.data));
            }
            let exceptions = named("exceptions").map_or(&[][..], |tensor| tensor.data.as_chunks::<16>().0);
            exceptions.iter().for_each(|pair| hash.update(&pair[..12]));
            let digest = hash.digest().to_le_bytes().to_vec();
            let name = format!("{prefix}state.hash");
            self.tensors.iter_mut().filter(|t| t.name == name).for_each(|t| t.data.clone_from(&digest));
        }
    }

    /// Written by hand: the library would not write what is wrong.
    fn bytes(&self) -> Vec<u8> {
        let mut header = Map::new();
        if !self.notes.is_empty() {
            header.insert("__metadata__".to_owned(), json!(self.notes));
        }
        let mut at = 0;
        for Tensor { name, dtype, shape, data, offsets } in &self.tensors {
            let true_ones = [at, at + data.len() as u64];
            at = true_ones[1];
            let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets.unwrap_or(true_ones)});
            header.insert(name.clone(), entry);
        }
        let mut header = serde_json::to_vec(&header).unwrap();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        self.tensors.iter().for_each(|tensor| bytes.extend(&tensor.data));
        bytes
    }
}

const NUMBERS: [u64; 16] =
    [0, 1, 2, 7, 8, 16, 40, 48, 49, 255, 65_536, 1 << 31, 1 << 32, 1 << 53, (1 << 63) - 1, u64::MAX];

const FLOATS: [f64; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    5e-324,
    f64::MIN_POSITIVE,
    1e-300,
    1e300,
    f64::MAX,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    999.0,
    4_611_686_018_427_387_904.0,
    1e-5,
];

const WORDS: [&str; 12] =
    ["edict", "belm", "bdia", "ddim", "exact", "float", "leapfrog", "fixed", "invert", "", "\u{0}", "猫"];

fn any_value(dice: &mut Dice) -> Value {
    match dice.below(9) {
        0..=2 => json!(dice.of(&NUMBERS)),
        3 => json!(-(dice.below(1000) as i64)),
        4 => json!(dice.of(&FLOATS)),
        5 => json!(dice.of(&WORDS)),
        6 => Value::Null,
        7 => json!(vec![dice.of(&WORDS); dice.below(4)]),
        _ => json!({"level": dice.of(&NUMBERS), "step": dice.of(&NUMBERS), "unit_bits": 40, "spill_bits": 8}),
    }
}

/// Changes a place somewhere within a value.
fn change_value(value: &mut Value, dice: &mut Dice) {
    match value {
        Value::Object(map) if !map.is_empty() && dice.below(8) > 0 => {
            let keys: Vec<_> = map.keys().cloned().collect();
            let key = dice.of(&keys);
            match dice.below(10) {
                0 => _ = map.remove(key),
                1 => {
                    _ = map.insert(
                        dice.of(&["level", "step", "order", "lattice", "later"]).to_string(),
                        any_value(dice),
                    );
                }
                _ => change_value(&mut map[key], dice),
            }
        }
        Value::Array(items) if !items.is_empty() && dice.below(3) > 0 => match dice.below(3) {
            0 => items.clear(),
            1 => items.push(any_value(dice)),
            _ => {
                let at = dice.below(items.len());
                change_value(&mut items[at], dice);
            }
        },
        // Near what it was, so that what counts something is off by one.
        Value::Number(number) if dice.below(3) == 0 => {
            let near = number.as_u64().unwrap_or(0).wrapping_add(dice.below(5) as u64).wrapping_sub(2);
            *value = json!(near);
        }
        _ => *value = any_value(dice),
    }
}

fn change_note(parts: &mut Parts, dice: &mut Dice) {
    let keys: Vec<_> = parts.notes.keys().cloned().collect();
    if keys.is_empty() {
        return;
    }
    let key = dice.of(&keys);
    match dice.below(12) {
        0 => _ = parts.notes.remove(key),
        1 => {
            let text = parts.notes.remove(key).unwrap_or_default();
            parts.notes.insert(dice.of(&["edict", "edict_checkpoint", "other"]).to_string(), text);
        }
        2 => {
            let text = parts.notes.get_mut(key).unwrap();
            let cut = (0..=dice.below(text.len())).rfind(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(cut);
        }
        3 => _ = parts.notes.insert(key.clone(), "[".repeat(1 << dice.below(12))),
        4 => {
            let digits = "9".repeat(dice.below(400) + 1);
            let text = parts.notes.get_mut(key).unwrap();
            *text = text.replacen("\"level\":", &format!("\"level\":{digits}"), 1);
        }
        _ => {
            let text = parts.notes.get_mut(key).unwrap();
            if let Ok(mut value) = serde_json::from_str(text) {
                change_value(&mut value, dice);
                *text = value.to_string();
            }
        }
    }
}

fn change_tensor(parts: &mut Parts, other: &Parts, dice: &mut Dice) {
    if parts.tensors.is_empty() {
        return;
    }
    let (at, another) = (dice.below(parts.tensors.len()), dice.below(parts.tensors.len()));
    match dice.below(13) {
        0 => _ = parts.tensors.remove(at),
        1 => {
            let name = parts.tensors[another].name.clone();
            parts.tensors[another].name = std::mem::replace(&mut parts.tensors[at].name, name);
        }
        2 => {
            let names = ["x", "y", "state.v", "state.carry", "state.exceptions", "generation.x", "run.gamma"];
            parts.tensors[at].name = dice.of(&names).to_string();
        }
        3 => {
            parts.tensors[at].dtype =
                dice.of(&["F64", "I64", "U64", "U8", "F32", "BOOL", "F4", "x"]).to_string();
        }
        4 => {
            let shape = &mut parts.tensors[at].shape;
            match dice.below(4) {
                0 => shape.insert(dice.below(shape.len() + 1), *dice.of(&NUMBERS)),
                1 => _ = shape.pop(),
                2 => shape.reverse(),
                _ if shape.is_empty() => {}
                _ => {
                    let axis = dice.below(shape.len());
                    shape[axis] = *dice.of(&NUMBERS);
                }
            }
        }
        5 => {
            let offsets = [*dice.of(&NUMBERS), *dice.of(&NUMBERS)];
            parts.tensors[at].offsets = Some(offsets);
        }
        // Numbers of eight bytes: a special one somewhere.
        6..=8 => {
            let data = &mut parts.tensors[at].data;
            let slots = data.len() / 8;
            if slots > 0 {
                let slot = dice.below(slots) * 8;
                let bits = match dice.below(3) {
                    0 => dice.of(&FLOATS).to_bits(),
                    1 => *dice.of(&NUMBERS),
                    _ => dice.next(),
                };
                data[slot..slot + 8].copy_from_slice(&bits.to_le_bytes());
            }
        }
        // Longer or shorter along the first axis, and so says its shape.
        9 | 10 => {
            let Tensor { shape, data, .. } = &mut parts.tensors[at];
            if let Some(&length) = shape.first()
                && length > 0
            {
                let row = data.len() / length as usize;
                let wanted = dice.below(2 * length as usize + 3);
                let rows: Vec<u8> = data.iter().copied().cycle().take(wanted * row).collect();
                (shape[0], *data) = (wanted as u64, rows);
            }
        }
        11 => {
            let data = &mut parts.tensors[at].data;
            let byte = dice.next() as u8;
            data.iter_mut().for_each(|value| *value = byte);
        }
        _ if other.tensors.is_empty() => {}
        _ => {
            let tensor = dice.of(&other.tensors).clone();
            parts.tensors.retain(|old| old.name != tensor.name);
            parts.tensors.push(tensor);
        }
    }
}

fn change_bytes(bytes: &mut Vec<u8>, dice: &mut Dice) {
    if bytes.len() < 9 {
        return;
    }
    let header = (u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize).clamp(1, bytes.len() - 8);
    match dice.below(6) {
        0 => {
            for _ in 0..=dice.below(8) {
                let at = 8 + dice.below(header);
                bytes[at] ^= 1 << dice.below(8);
            }
        }
        1 => {
            for _ in 0..=dice.below(8) {
                let at = dice.below(bytes.len());
                bytes[at] ^= 1 << dice.below(8);
            }
        }
        2 => bytes.truncate(dice.below(bytes.len())),
        3 => bytes.extend(std::iter::repeat_n(dice.next() as u8, dice.below(100))),
        4 => {
            let length = match dice.below(3) {
                0 => *dice.of(&NUMBERS),
                1 => dice.next(),
                _ => (header as u64).wrapping_add(dice.below(9) as u64).wrapping_sub(4),
            };
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        // A digit or a bracket of the header is another.
        _ => {
            let at = 8 + dice.below(header);
            bytes[at] = *dice.of(b"0123456789{}[]\",:-e.\\u");
        }
    }
}

fn mutated(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let (mut bytes, other) = (dice.of(corpus).clone(), dice.of(corpus));
    if dice.below(5) > 0
        && let (Some(mut parts), Some(other)) = (Parts::of(&bytes), Parts::of(other))
    {
        for _ in 0..=dice.below(3) {
            match dice.below(2) {
                0 => change_note(&mut parts, dice),
                _ => change_tensor(&mut parts, &other, dice),
            }
        }
        if dice.below(4) > 0 {
            parts.mend();
        }
        bytes = parts.bytes();
        if dice.below(8) > 0 {
            return bytes;
        }
    }
    change_bytes(&mut bytes, dice);
    bytes
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// What an error says, its numbers and names left out.
fn kind(error: &impl std::fmt::Debug) -> String {
    format!("{error:?}").chars().take_while(|c| c.is_alphabetic() || *c == '(').collect()
}

#[test]
fn mutated_files_are_errors_or_whole_soon_and_in_little_memory() {
    let seed = setting("EDICT_FUZZ_SEED", 1);
    let time = Duration::from_secs(setting("EDICT_FUZZ_SECONDS", 2));
    let mut corpus: Vec<_> =
        common::inversions().iter().map(|inversion| inversion.to_bytes().unwrap()).collect();
    corpus.extend(common::checkpoints().iter().map(|checkpoint| checkpoint.to_bytes().unwrap()));
    let whole = corpus.len();
    let mut dice = Dice(seed);
    let (mut tried, mut inversions, mut checkpoints) = (0u64, 0u64, 0u64);
    let (mut longest, mut largest) = (Duration::ZERO, 0.0);
    let mut errors = BTreeMap::<String, u64>::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let bytes = mutated(&corpus, &mut dice);
        let keep = |reason: &str| {
            let path = std::env::temp_dir().join(format!("edict-fuzz-{seed}-{tried}.safetensors"));
            std::fs::write(&path, &bytes).unwrap();
            eprintln!("{reason}: seed {seed}, file {tried}, kept as {}", path.display());
        };
        for read in [
            |bytes: &[u8]| drop(Inversion::from_bytes(bytes)),
            |bytes: &[u8]| {
                drop(Checkpoint::from_bytes(bytes));
            },
        ] {
            let read = catch_unwind(AssertUnwindSafe(|| peak(|| read(&bytes))));
            let ((), most) = read.unwrap_or_else(|panic| {
                keep("a panic");
                resume_unwind(panic)
            });
            largest = f64::max(largest, most as f64 / bytes.len().max(1000) as f64);
            if most > bound(bytes.len()) {
                keep("too much memory");
                panic!("{most} bytes held for a file of {}", bytes.len());
            }
        }
        let start = Instant::now();
        let found = catch_unwind(AssertUnwindSafe(|| body::check(&bytes))).unwrap_or_else(|panic| {
            keep("a failed check");
            resume_unwind(panic)
        });
        longest = longest.max(start.elapsed());
        // Files are of some 20 kB; a loop over a number that a file claims would take for ever. A busy machine is given time.
        if start.elapsed() > Duration::from_secs(20) {
            keep("too long");
            panic!("{:?} for a file of {} bytes", start.elapsed(), bytes.len());
        }
        tried += 1;
        inversions += u64::from(found.inversion.is_ok());
        checkpoints += u64::from(found.checkpoint.is_ok());
        if let (Err(one), Err(other)) = (&found.inversion, &found.checkpoint) {
            *errors.entry(kind(one)).or_default() += 1;
            *errors.entry(kind(other)).or_default() += 1;
        } else if corpus.len() < 4 * whole {
            // Mutations of mutations reach further; the whole files stay.
            corpus.push(bytes);
        } else if dice.below(20) == 0 {
            let at = whole + dice.below(corpus.len() - whole);
            corpus[at] = bytes;
        }
    }
    println!(
        "{tried} files in {:.0} s: {inversions} inversions, {checkpoints} checkpoints; at most {:.1} times a file's length held, \
         {longest:?} for one; {errors:?}",
        begun.elapsed().as_secs_f64(),
        largest,
    );
    // Mutations that are all refused, or all accepted, and always for one reason, show nothing.
    assert!(tried > 100, "only {tried} files");
    assert!(
        inversions > tried / 100 && checkpoints > tried / 100,
        "{inversions} and {checkpoints} of {tried}"
    );
    assert!(inversions + checkpoints < tried * 9 / 10, "{inversions} and {checkpoints} of {tried}");
    assert!(errors.len() >= 10, "{errors:?}");
}

/// Every plane is an array of its own: a byte a plane would be a hundred in memory.
#[test]
fn a_million_carry_planes_of_one_element_are_refused() {
    let bytes = common::inversions()[0].to_bytes().unwrap();
    let mut parts = Parts::of(&bytes).unwrap();
    for tensor in &mut parts.tensors {
        match tensor.name.as_str() {
            "x" | "y" | "image_latent" | "state.v" | "state.w" => {
                tensor.shape = vec![1; 4];
                tensor.data = vec![0; 8];
            }
            "state.carry" => {
                tensor.shape = vec![1_000_000, 1, 1, 1, 1];
                tensor.data = vec![1; 1_000_000];
            }
            _ => {}
        }
    }
    let bytes = parts.bytes();
    let (read, most) = peak(|| Inversion::from_bytes(&bytes));
    assert!(read.unwrap_err().to_string().contains("`state.carry`"));
    assert!(most < bound(0) + 3 * bytes.len(), "{most} bytes for a file of {}", bytes.len());
    // As many as a run can have filled are read.
    let carry = parts.tensors.iter_mut().find(|tensor| tensor.name == "state.carry").unwrap();
    (carry.shape[0], carry.data) = (1000, vec![1; 1000]);
    parts.mend();
    Inversion::from_bytes(&parts.bytes()).unwrap();
}

/// Levels and steps far outside a run, in every place that holds one.
#[test]
fn places_outside_the_run_are_refused_at_once() {
    let mut seen = 0;
    for checkpoint in common::checkpoints() {
        let parts = Parts::of(&checkpoint.to_bytes().unwrap()).unwrap();
        let levels = checkpoint.inversion.trajectory.run().len() as u64 + 1;
        for level in [levels, levels + 1, 1 << 40, u64::MAX] {
            let mut changed = parts.clone();
            let mut note: Value = serde_json::from_str(&parts.notes["edict"]).unwrap();
            note["state"]["level"] = json!(level);
            changed.notes.insert("edict".to_owned(), note.to_string());
            Checkpoint::from_bytes(&changed.bytes()).unwrap_err();

            let mut note: Value = serde_json::from_str(&parts.notes["edict_checkpoint"]).unwrap();
            if note["generation"]["state"].is_object() {
                note["generation"]["state"]["level"] = json!(level);
                let mut changed = parts.clone();
                changed.notes.insert("edict_checkpoint".to_owned(), note.to_string());
                Checkpoint::from_bytes(&changed.bytes()).unwrap_err();
                seen += 1;
            }
        }
        for finished in [2, u64::MAX] {
            let mut note: Value = serde_json::from_str(&parts.notes["edict_checkpoint"]).unwrap();
            if note["generation"].is_object() {
                note["generation"]["finished"] = json!(finished);
                let mut changed = parts.clone();
                changed.notes.insert("edict_checkpoint".to_owned(), note.to_string());
                let error = Checkpoint::from_bytes(&changed.bytes()).unwrap_err().to_string();
                assert!(error.contains(&format!("{finished} of 2 pictures")), "{error}");
            }
        }
    }
    assert!(seen > 20, "{seen}");
}
