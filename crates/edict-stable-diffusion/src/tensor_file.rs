//! Safetensors files of numbers and notes, written and read by name.

use std::collections::HashMap;

use edict_core::Latents;
use ndarray::ArrayD;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::InversionFileError;

/// Gathers what goes into a file.
#[derive(Default)]
pub(crate) struct TensorWriter {
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl TensorWriter {
    fn add<const N: usize>(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: Vec<usize>,
        values: impl Iterator<Item = [u8; N]>,
    ) {
        self.tensors.push((name.to_owned(), dtype, shape, values.flatten().collect()));
    }

    pub(crate) fn latents(&mut self, name: &str, values: &Latents) {
        self.add(name, Dtype::F64, values.shape().to_vec(), values.iter().map(|v| v.to_le_bytes()));
    }

    pub(crate) fn vector(&mut self, name: &str, values: &[f64]) {
        self.add(name, Dtype::F64, vec![values.len()], values.iter().map(|v| v.to_le_bytes()));
    }

    pub(crate) fn integers(&mut self, name: &str, values: &ArrayD<i64>) {
        self.add(name, Dtype::I64, values.shape().to_vec(), values.iter().map(|v| v.to_le_bytes()));
    }

    /// Planes of one shape, as one tensor `[planes, ...]`.
    pub(crate) fn planes(&mut self, name: &str, planes: &[ArrayD<u8>], shape: &[usize]) {
        let shape = [&[planes.len()], shape].concat();
        self.add(name, Dtype::U8, shape, planes.iter().flatten().map(|v| [*v]));
    }

    pub(crate) fn hashes(&mut self, name: &str, values: &[u64]) {
        self.add(name, Dtype::U64, vec![values.len()], values.iter().map(|v| v.to_le_bytes()));
    }

    pub(crate) fn metadata(&mut self, key: &str, value: &impl Serialize) -> Result<(), InversionFileError> {
        self.metadata.insert(key.to_owned(), serde_json::to_string(value)?);
        Ok(())
    }

    pub(crate) fn into_bytes(self) -> Result<Vec<u8>, InversionFileError> {
        let views = (self.tensors.iter())
            .map(|(name, dtype, shape, data)| Ok((name, TensorView::new(*dtype, shape.clone(), data)?)))
            .collect::<Result<Vec<_>, SafeTensorError>>()?;
        let metadata = Some(self.metadata).filter(|metadata| !metadata.is_empty());
        Ok(safetensors::serialize(views, metadata)?)
    }
}

/// A file's tensors and notes.
pub(crate) struct TensorReader<'a> {
    tensors: SafeTensors<'a>,
    metadata: HashMap<String, String>,
}

impl<'a> TensorReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, InversionFileError> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(Self { tensors: SafeTensors::deserialize(bytes)?, metadata })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    pub(crate) fn has_metadata(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    pub(crate) fn metadata<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, InversionFileError> {
        Ok(self.metadata.get(key).map(|text| serde_json::from_str(text)).transpose()?)
    }

    fn get<T, const N: usize>(
        &self,
        name: &str,
        (dtype, expected): (Dtype, &str),
        fits: impl Fn(&[usize]) -> bool,
        value: impl Fn([u8; N]) -> T,
    ) -> Result<(Vec<usize>, Vec<T>), InversionFileError> {
        let Ok(view) = self.tensors.tensor(name) else {
            return Err(InversionFileError::MissingTensor { name: name.to_owned() });
        };
        let (found, shape) = (view.dtype(), view.shape().to_vec());
        if found != dtype || !fits(&shape) {
            let expected = format!("{dtype:?} {expected}");
            let (name, dtype) = (name.to_owned(), format!("{found:?}"));
            return Err(InversionFileError::Tensor { name, expected, dtype, shape });
        }
        let (values, _) = view.data().as_chunks::<N>();
        Ok((shape, values.iter().map(|bytes| value(*bytes)).collect()))
    }

    /// Latents `[batch, channels, h, w]`, none of them 0.
    pub(crate) fn latents(&self, name: &str) -> Result<Latents, InversionFileError> {
        let expected = (Dtype::F64, "of shape [batch, channels, h, w], none of them 0");
        let fits = |shape: &[usize]| shape.len() == 4 && !shape.contains(&0);
        let (shape, values) = self.get(name, expected, fits, f64::from_le_bytes)?;
        array(name, shape, values)
    }

    /// Latents of a known shape.
    pub(crate) fn latents_of(&self, name: &str, shape: &[usize]) -> Result<Latents, InversionFileError> {
        let expected = format!("{shape:?} (that of `image_latent`)");
        let (shape, values) =
            self.get(name, (Dtype::F64, &expected), |found| found == shape, f64::from_le_bytes)?;
        array(name, shape, values)
    }

    pub(crate) fn integers(&self, name: &str, shape: &[usize]) -> Result<ArrayD<i64>, InversionFileError> {
        let expected = format!("{shape:?} (that of `image_latent`)");
        let (shape, values) =
            self.get(name, (Dtype::I64, &expected), |found| found == shape, i64::from_le_bytes)?;
        array(name, shape, values)
    }

    pub(crate) fn planes(&self, name: &str, shape: &[usize]) -> Result<Vec<ArrayD<u8>>, InversionFileError> {
        // Each plane is an array of its own, which may be small: more than a run of 1000 steps could fill, and no more than a reader
        // can hold.
        const MOST: usize = 1 << 16;
        let expected = format!("[planes, ..] with at most {MOST} planes of {shape:?}");
        let fits =
            |found: &[usize]| found.len() == shape.len() + 1 && found[1..] == *shape && found[0] <= MOST;
        let (_, values) = self.get(name, (Dtype::U8, &expected), fits, |[byte]: [u8; 1]| byte)?;
        // Planes have elements, see `latents`.
        let size = shape.iter().product::<usize>().max(1);
        values.chunks_exact(size).map(|plane| array(name, shape.to_vec(), plane.to_vec())).collect()
    }

    pub(crate) fn vector(&self, name: &str, length: Option<usize>) -> Result<Vec<f64>, InversionFileError> {
        let fits = |shape: &[usize]| shape.len() == 1 && length.is_none_or(|length| shape[0] == length);
        let expected = length.map_or("[n]".to_owned(), |length| format!("[{length}]"));
        Ok(self.get(name, (Dtype::F64, &expected), fits, f64::from_le_bytes)?.1)
    }

    pub(crate) fn number(&self, name: &str) -> Result<f64, InversionFileError> {
        Ok(self.vector(name, Some(1))?[0])
    }

    pub(crate) fn hashes(&self, name: &str) -> Result<Vec<u64>, InversionFileError> {
        Ok(self.get(name, (Dtype::U64, "[n]"), |shape| shape.len() == 1, u64::from_le_bytes)?.1)
    }
}

fn array<T>(name: &str, shape: Vec<usize>, values: Vec<T>) -> Result<ArrayD<T>, InversionFileError> {
    let found = shape.clone();
    ArrayD::from_shape_vec(shape, values).map_err(|_| InversionFileError::Tensor {
        name: name.to_owned(),
        expected: "as many values as its shape says".to_owned(),
        dtype: "others".to_owned(),
        shape: found,
    })
}
