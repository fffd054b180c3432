//! Weight files in the safetensors format, read one tensor at a time.
//!
//! The format (<https://huggingface.co/docs/safetensors>): eight bytes with the header's length, a JSON header that gives each
//! tensor's type, shape and byte range, then the bytes, without gaps.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use crate::backend::{DType, RawTensor};
use crate::error::LoadError;

/// The longest header the format's own reader accepts, in bytes.
const MAX_HEADER: u64 = 100_000_000;

/// An opened weight file: its header is in memory, its tensors are read when asked for.
///
/// Nothing is mapped: loading a network needs the memory of its weights and of one tensor more.
pub struct WeightFile {
    path: PathBuf,
    source: Source,
    data_start: u64,
    length: u64,
    tensors: BTreeMap<String, TensorEntry>,
    used: Mutex<BTreeSet<String>>,
}

/// What a weight file's header says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    dtype: String,
    shape: Vec<usize>,
    begin: u64,
    end: u64,
}

impl TensorEntry {
    /// Returns the element type as the header writes it: `F32`, `F16`, `I64`, ...
    pub fn dtype(&self) -> &str {
        &self.dtype
    }

    /// Returns the extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the number of bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.end - self.begin
    }
}

enum Source {
    Disk(Mutex<File>),
    Embedded(&'static [u8]),
    /// Has every tensor, in the shape asked for and without its bytes.
    #[cfg(test)]
    Boundless,
}

impl Source {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Disk(file) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(offset))?;
                file.read_exact(buffer)
            }
            Self::Embedded(bytes) => {
                let mut rest = usize::try_from(offset)
                    .ok()
                    .and_then(|start| bytes.get(start..))
                    .ok_or(io::ErrorKind::UnexpectedEof)?;
                rest.read_exact(buffer)
            }
            #[cfg(test)]
            Self::Boundless => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl WeightFile {
    /// Opens a file on disk and checks its header and length.
    ///
    /// # Errors
    /// [`LoadError::Io`] if it cannot be read, [`LoadError::WeightHeader`], [`LoadError::TensorEntry`] or
    /// [`LoadError::WeightFileLength`] if it is damaged.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let io = |source| LoadError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        Self::check(path, Source::Disk(Mutex::new(file)), length)
    }

    /// Opens a file that is in memory; `path` is named in errors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn embedded(path: &Path, bytes: &'static [u8]) -> Result<Self, LoadError> {
        Self::check(path, Source::Embedded(bytes), bytes.len() as u64)
    }

    /// Makes a file that has every tensor, to see what a network asks for.
    #[cfg(test)]
    pub(crate) fn boundless() -> Self {
        Self {
            path: "boundless".into(),
            source: Source::Boundless,
            data_start: 0,
            length: 0,
            tensors: BTreeMap::new(),
            used: Mutex::default(),
        }
    }

    fn check(path: &Path, source: Source, length: u64) -> Result<Self, LoadError> {
        let io = |source| LoadError::Io { path: path.to_owned(), source };
        let bad_header = |reason: String| LoadError::WeightHeader { path: path.to_owned(), reason };
        if length < 8 {
            return Err(bad_header(format!(
                "it has {length} bytes, fewer than the 8 of the header's length"
            )));
        }
        let mut prefix = [0; 8];
        source.read_exact_at(0, &mut prefix).map_err(io)?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > MAX_HEADER {
            return Err(bad_header(format!("a header of {header_length} bytes is announced")));
        }
        let data_start = 8 + header_length;
        if data_start > length {
            return Err(LoadError::WeightFileLength {
                path: path.to_owned(),
                expected: data_start,
                found: length,
            });
        }
        let mut header = vec![0; header_length as usize];
        source.read_exact_at(8, &mut header).map_err(io)?;
        let tensors = parse_header(path, &header)?;
        let data_length = check_layout(path, &tensors)?;
        let expected = data_start.saturating_add(data_length);
        if expected != length {
            return Err(LoadError::WeightFileLength { path: path.to_owned(), expected, found: length });
        }
        Ok(Self { path: path.to_owned(), source, data_start, length, tensors, used: Mutex::default() })
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the tensors in the file by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorEntry)> {
        self.tensors.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// Returns whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Returns the extents of a tensor, if there is one of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(TensorEntry::shape)
    }

    /// Reads a tensor.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], [`LoadError::TensorShape`] or [`LoadError::TensorDType`], naming file and tensor;
    /// [`LoadError::Io`] if the file cannot be read.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'static>, LoadError> {
        let path = || self.path.clone();
        #[cfg(test)]
        if matches!(self.source, Source::Boundless) {
            return Ok(RawTensor { dtype: DType::F32, shape: shape.to_vec(), data: Cow::Borrowed(&[]) });
        }
        let Some(entry) = self.tensors.get(name) else {
            return Err(LoadError::MissingTensor { path: path(), name: name.to_owned() });
        };
        if entry.shape != shape {
            return Err(LoadError::TensorShape {
                path: path(),
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: entry.shape.clone(),
            });
        }
        let Some(dtype) = float_type(&entry.dtype) else {
            return Err(LoadError::TensorDType {
                path: path(),
                name: name.to_owned(),
                found: entry.dtype.clone(),
            });
        };
        let io = |source| LoadError::Io { path: path(), source };
        let data = match self.source {
            Source::Embedded(bytes) => {
                let range = (self.data_start + entry.begin) as usize..(self.data_start + entry.end) as usize;
                Cow::Borrowed(bytes.get(range).ok_or_else(|| io(io::ErrorKind::UnexpectedEof.into()))?)
            }
            _ => {
                let mut data = vec![0; entry.bytes() as usize];
                self.source.read_exact_at(self.data_start + entry.begin, &mut data).map_err(io)?;
                Cow::Owned(data)
            }
        };
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok(RawTensor { dtype, shape: entry.shape.clone(), data })
    }

    /// Returns the tensors that nothing has read so far; once a network has been loaded, those that it ignores.
    pub fn unread(&self) -> Vec<&str> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        self.tensors.keys().filter(|name| !used.contains(*name)).map(String::as_str).collect()
    }

    /// Passes the whole file to `sink`, a mebibyte at a time.
    ///
    /// # Errors
    /// [`LoadError::Io`] if the file cannot be read.
    pub(crate) fn stream(&self, mut sink: impl FnMut(&[u8])) -> Result<(), LoadError> {
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < self.length {
            let part = (self.length - offset).min(buffer.len() as u64) as usize;
            self.source
                .read_exact_at(offset, &mut buffer[..part])
                .map_err(|source| LoadError::Io { path: self.path.clone(), source })?;
            sink(&buffer[..part]);
            offset += part as u64;
        }
        Ok(())
    }
}

impl fmt::Debug for WeightFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeightFile")
            .field("path", &self.path)
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

fn parse_header(path: &Path, header: &[u8]) -> Result<BTreeMap<String, TensorEntry>, LoadError> {
    let bad = |e: serde_json::Error| LoadError::WeightHeader { path: path.to_owned(), reason: e.to_string() };
    let entries: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).map_err(bad)?;
    let mut tensors = BTreeMap::new();
    for (name, value) in entries {
        if name == "__metadata__" {
            continue;
        }
        let HeaderEntry { dtype, shape, data_offsets: [begin, end] } = serde_json::from_value(value)
            .map_err(|e| LoadError::TensorEntry {
                path: path.to_owned(),
                name: name.clone(),
                reason: format!("has a malformed entry: {e}"),
            })?;
        tensors.insert(name, TensorEntry { dtype, shape, begin, end });
    }
    Ok(tensors)
}

/// Checks that the byte ranges fit types and shapes and tile the data; returns its length.
fn check_layout(path: &Path, tensors: &BTreeMap<String, TensorEntry>) -> Result<u64, LoadError> {
    let bad = |name: &str, reason: String| LoadError::TensorEntry {
        path: path.to_owned(),
        name: name.to_owned(),
        reason,
    };
    let mut in_order: Vec<(&String, &TensorEntry)> = tensors.iter().collect();
    in_order.sort_by_key(|(_, entry)| (entry.begin, entry.end));
    let mut position = 0;
    for (name, entry) in in_order {
        if entry.begin != position || entry.end < entry.begin {
            let (begin, end) = (entry.begin, entry.end);
            return Err(bad(
                name,
                format!("is at bytes {begin}..{end}, but the tensor before it ends at {position}"),
            ));
        }
        position = entry.end;
        // Types this crate does not know are never read, and may be smaller than a byte.
        if let Some(size) = element_size(&entry.dtype) {
            let bytes = entry.shape.iter().try_fold(size, |n, side| n.checked_mul(*side as u64));
            if bytes != Some(entry.bytes()) {
                let (shape, dtype, found) = (&entry.shape, &entry.dtype, entry.bytes());
                return Err(bad(name, format!("of shape {shape:?} and type {dtype} has {found} bytes")));
            }
        }
    }
    Ok(position)
}

fn element_size(dtype: &str) -> Option<u64> {
    match dtype {
        "BOOL" | "U8" | "I8" => Some(1),
        "U16" | "I16" | "F16" | "BF16" => Some(2),
        "U32" | "I32" | "F32" => Some(4),
        "U64" | "I64" | "F64" => Some(8),
        _ => None,
    }
}

fn float_type(dtype: &str) -> Option<DType> {
    match dtype {
        "F16" => Some(DType::F16),
        "BF16" => Some(DType::BF16),
        "F32" => Some(DType::F32),
        "F64" => Some(DType::F64),
        _ => None,
    }
}
