//! Weight files taken apart and put together again.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};

#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Tensor {
    pub fn values(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32);
        self.data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// Stores the values in another format, rounded.
    pub fn to(&self, dtype: Dtype) -> Self {
        if self.dtype != Dtype::F32 {
            return self.clone();
        }
        let values = self.values();
        let data = match dtype {
            Dtype::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::F64 => values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect(),
            _ => self.data.clone(),
        };
        Self { dtype, data, ..self.clone() }
    }

    /// Rounds the values to another format and stores them as they were.
    pub fn rounded_to(&self, dtype: Dtype) -> Self {
        if self.dtype != Dtype::F32 {
            return self.clone();
        }
        let round = |x: f32| match dtype {
            Dtype::F16 => f16::from_f32(x).to_f32(),
            Dtype::BF16 => bf16::from_f32(x).to_f32(),
            _ => x,
        };
        let data = self.values().iter().flat_map(|x| round(*x).to_le_bytes()).collect();
        Self { data, ..self.clone() }
    }
}

pub fn read(path: &Path) -> Vec<Tensor> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (String, TensorView<'_>)| Tensor {
        name,
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        data: view.data().to_vec(),
    };
    file.tensors().into_iter().map(tensor).collect()
}

pub fn write(path: &Path, tensors: &[Tensor]) {
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.data).unwrap();
        (tensor.name.clone(), view)
    });
    serialize_to_file(views, None, path).unwrap();
}

/// Changes every tensor of a file.
pub fn edit(path: &Path, change: impl Fn(Tensor) -> Tensor) {
    let tensors: Vec<Tensor> = read(path).into_iter().map(change).collect();
    write(path, &tensors);
}
