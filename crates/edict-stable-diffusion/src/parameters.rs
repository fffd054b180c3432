//! From named tensors of a weight file to a back end's layers.

use std::fmt::Display;

use crate::backend::{Backend, Conv2dGeometry, RawTensor};
use crate::error::LoadError;
use crate::weights::WeightFile;

/// A place in the tree of a weight file's tensors (`down_blocks.0.resnets.1`), from which layers are loaded.
pub(crate) struct Parameters<'a, B> {
    backend: &'a B,
    file: &'a WeightFile,
    prefix: String,
}

impl<'a, B: Backend> Parameters<'a, B> {
    /// Starts at the root of a file.
    pub(crate) fn new(backend: &'a B, file: &'a WeightFile) -> Self {
        Self { backend, file, prefix: String::new() }
    }

    /// Goes down to the child `name`.
    pub(crate) fn at(&self, name: impl Display) -> Self {
        Self { backend: self.backend, file: self.file, prefix: self.name(name) }
    }

    /// Returns where this is: `down_blocks.0.resnets.1`.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns whether there is a tensor `name` below this place.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.file.contains(&self.name(name))
    }

    fn name(&self, name: impl Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'static>, LoadError> {
        self.file.tensor(&self.name(name), shape)
    }

    fn placed<T>(&self, name: &str, result: Result<T, B::Error>) -> Result<T, LoadError> {
        result.map_err(|source| LoadError::Backend {
            path: self.file.path().to_owned(),
            name: self.name(name),
            source: Box::new(source),
        })
    }

    /// Loads a convolution of `size x size` windows with its bias.
    pub(crate) fn conv2d(
        &self,
        name: &str,
        [inputs, outputs]: [usize; 2],
        size: usize,
        geometry: Conv2dGeometry,
    ) -> Result<B::Conv2d, LoadError> {
        let weight = self.tensor(&format!("{name}.weight"), &[outputs, inputs, size, size])?;
        let bias = self.tensor(&format!("{name}.bias"), &[outputs])?;
        self.placed(name, self.backend.load_conv2d(weight, Some(bias), geometry))
    }

    /// Loads a convolution that keeps an image's size; `size` is odd.
    pub(crate) fn same_conv2d(
        &self,
        name: &str,
        channels: [usize; 2],
        size: usize,
    ) -> Result<B::Conv2d, LoadError> {
        let padding = size / 2;
        let geometry = Conv2dGeometry { stride: 1, padding_before: padding, padding_after: padding };
        self.conv2d(name, channels, size, geometry)
    }

    /// Loads a linear map with its bias.
    pub(crate) fn linear(&self, name: &str, channels: [usize; 2]) -> Result<B::Linear, LoadError> {
        self.linear_stored(name, channels, Stored::Linear, true)
    }

    /// Loads a linear map that may be stored as a 1x1 convolution, which is the same map.
    pub(crate) fn linear_stored(
        &self,
        name: &str,
        [inputs, outputs]: [usize; 2],
        stored: Stored,
        with_bias: bool,
    ) -> Result<B::Linear, LoadError> {
        let weight_name = format!("{name}.weight");
        let as_conv = match stored {
            Stored::Linear => false,
            Stored::Conv => true,
            Stored::Either => self.file.shape(&self.name(&weight_name)).is_some_and(|shape| shape.len() == 4),
        };
        let shape: &[usize] = if as_conv { &[outputs, inputs, 1, 1] } else { &[outputs, inputs] };
        let mut weight = self.tensor(&weight_name, shape)?;
        weight.shape.truncate(2);
        let bias = if with_bias { Some(self.tensor(&format!("{name}.bias"), &[outputs])?) } else { None };
        self.placed(name, self.backend.load_linear(weight, bias))
    }

    /// Loads scale and shift of a norm.
    pub(crate) fn norm(&self, name: &str, channels: usize) -> Result<B::Norm, LoadError> {
        let weight = self.tensor(&format!("{name}.weight"), &[channels])?;
        let bias = self.tensor(&format!("{name}.bias"), &[channels])?;
        self.placed(name, self.backend.load_norm(weight, bias))
    }

    /// Loads a table of embeddings.
    pub(crate) fn table(&self, name: &str, shape: [usize; 2]) -> Result<B::Tensor, LoadError> {
        let table = self.tensor(&format!("{name}.weight"), &shape)?;
        self.placed(name, self.backend.load_table(table))
    }
}

/// How a linear map's weight is shaped on disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stored {
    /// `[out, in]`.
    Linear,
    /// `[out, in, 1, 1]`.
    Conv,
    /// One of the two.
    Either,
}
