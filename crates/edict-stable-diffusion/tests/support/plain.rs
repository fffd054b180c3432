//! A back end of plain loops over `ndarray`, for tests of the networks alone: slow, and short enough to be read.
//!
//! Values are kept in f64; every operation's result is rounded once to the element type.

use std::convert::Infallible;
use std::sync::Arc;

use edict_stable_diffusion::{AttentionOptions, Backend, Conv2dGeometry, DType, RawTensor};
use half::{bf16, f16};
use ndarray::{Array2, Array4, ArrayD, ArrayView2, ArrayViewD, Axis, Ix2, Ix3, Ix4, IxDyn, concatenate, s};

/// The back end; its only setting is the element type.
#[derive(Clone, Debug)]
pub struct Plain(pub DType);

type Tensor = Arc<ArrayD<f64>>;

#[derive(Debug)]
pub struct Conv {
    weight: Array4<f64>,
    bias: ArrayD<f64>,
    geometry: Conv2dGeometry,
}

#[derive(Debug)]
pub struct Affine {
    weight: ArrayD<f64>,
    bias: Option<ArrayD<f64>>,
}

/// Reads the elements of a tensor as it stands in a weight file.
pub fn decode(raw: &RawTensor<'_>) -> ArrayD<f64> {
    let values: Vec<f64> = match raw.dtype {
        DType::F16 => raw.data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
        DType::BF16 => raw.data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
        DType::F32 => {
            raw.data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
        }
        DType::F64 => raw.data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
    };
    ArrayD::from_shape_vec(IxDyn(&raw.shape), values).unwrap()
}

pub fn round_to(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F16 => f16::from_f64(x).to_f64(),
        DType::BF16 => bf16::from_f64(x).to_f64(),
        DType::F32 => f64::from(x as f32),
        DType::F64 => x,
    }
}

/// Computes the error function by its Maclaurin series below 3 and a continued fraction above, to about 1e-16.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-18 * sum.abs() && n < 200.0 {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let mut tail = a;
        for k in (1..=80).rev() {
            tail = a + f64::from(k) / 2.0 / tail;
        }
        1.0 - (-a * a).exp() / (tail * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

impl Plain {
    fn store(&self, array: ArrayD<f64>) -> Result<Tensor, Infallible> {
        Ok(Arc::new(array.mapv_into(|x| round_to(self.0, x))))
    }

    fn parameter(&self, raw: &RawTensor<'_>) -> ArrayD<f64> {
        decode(raw).mapv_into(|x| round_to(self.0, x))
    }
}

fn normalise(row: &mut [f64], eps: f64) {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    for x in row {
        *x = (*x - mean) / (variance + eps).sqrt();
    }
}

impl Backend for Plain {
    type Tensor = Tensor;
    type Conv2d = Conv;
    type Linear = Affine;
    type Norm = Affine;
    type Error = Infallible;

    fn dtype(&self) -> DType {
        self.0
    }

    fn with_dtype(&self, dtype: DType) -> Self {
        Self(dtype)
    }

    fn load_conv2d(
        &self,
        weight: RawTensor<'_>,
        bias: Option<RawTensor<'_>>,
        geometry: Conv2dGeometry,
    ) -> Result<Conv, Infallible> {
        let weight = self.parameter(&weight).into_dimensionality::<Ix4>().unwrap();
        let bias = bias.map_or_else(|| ArrayD::zeros(IxDyn(&[weight.dim().0])), |b| self.parameter(&b));
        Ok(Conv { weight, bias, geometry })
    }

    fn load_linear(&self, weight: RawTensor<'_>, bias: Option<RawTensor<'_>>) -> Result<Affine, Infallible> {
        Ok(Affine { weight: self.parameter(&weight), bias: bias.map(|b| self.parameter(&b)) })
    }

    fn load_norm(&self, weight: RawTensor<'_>, bias: RawTensor<'_>) -> Result<Affine, Infallible> {
        Ok(Affine { weight: self.parameter(&weight), bias: Some(self.parameter(&bias)) })
    }

    fn load_table(&self, table: RawTensor<'_>) -> Result<Tensor, Infallible> {
        Ok(Arc::new(self.parameter(&table)))
    }

    fn upload(&self, values: ArrayViewD<'_, f64>) -> Result<Tensor, Infallible> {
        self.store(values.as_standard_layout().into_owned())
    }

    fn download(&self, tensor: &Tensor) -> Result<ArrayD<f64>, Infallible> {
        Ok(tensor.as_ref().clone())
    }

    fn conv2d(&self, image: &Tensor, conv: &Conv) -> Result<Tensor, Infallible> {
        let Conv2dGeometry { stride, padding_before: before, padding_after: after } = conv.geometry;
        let image = image.view().into_dimensionality::<Ix4>().unwrap();
        let (batch, inputs, height, width) = image.dim();
        let (outputs, weight_inputs, kernel, _) = conv.weight.dim();
        assert_eq!(inputs, weight_inputs, "channels of a convolution");
        let mut padded = Array4::zeros((batch, inputs, height + before + after, width + before + after));
        padded.slice_mut(s![.., .., before..before + height, before..before + width]).assign(&image);
        let rows = (height + before + after - kernel) / stride + 1;
        let columns = (width + before + after - kernel) / stride + 1;
        let mut out = Array4::zeros((batch, outputs, rows, columns));
        for b in 0..batch {
            for o in 0..outputs {
                let mut plane = out.slice_mut(s![b, o, .., ..]);
                plane.fill(conv.bias[o]);
                for i in 0..inputs {
                    for ky in 0..kernel {
                        for kx in 0..kernel {
                            let (end_y, end_x) =
                                (ky + (rows - 1) * stride + 1, kx + (columns - 1) * stride + 1);
                            let window = padded.slice(s![b, i, ky..end_y; stride, kx..end_x; stride]);
                            plane.scaled_add(conv.weight[[o, i, ky, kx]], &window);
                        }
                    }
                }
            }
        }
        self.store(out.into_dyn())
    }

    fn linear(&self, x: &Tensor, linear: &Affine) -> Result<Tensor, Infallible> {
        let mut shape = x.shape().to_vec();
        let inputs = shape.pop().unwrap();
        let rows = x.len() / inputs;
        let flat = x.as_standard_layout().into_owned().into_shape_with_order((rows, inputs)).unwrap();
        let weight = linear.weight.view().into_dimensionality::<Ix2>().unwrap();
        let mut out: Array2<f64> = flat.dot(&weight.t());
        if let Some(bias) = &linear.bias {
            out += &bias.view().into_dimensionality::<ndarray::Ix1>().unwrap();
        }
        shape.push(weight.nrows());
        self.store(out.as_standard_layout().into_owned().into_shape_with_order(shape).unwrap())
    }

    fn group_norm(
        &self,
        image: &Tensor,
        norm: &Affine,
        groups: usize,
        eps: f64,
    ) -> Result<Tensor, Infallible> {
        let mut out = image.as_standard_layout().into_owned();
        let shape = image.shape().to_vec();
        let (pixels, per_group) = (shape[2] * shape[3], shape[1] / groups * shape[2] * shape[3]);
        let values = out.as_slice_mut().unwrap();
        for group in values.chunks_exact_mut(per_group) {
            normalise(group, eps);
        }
        for (i, plane) in values.chunks_exact_mut(pixels).enumerate() {
            let c = i % shape[1];
            for x in plane {
                *x = *x * norm.weight[c] + norm.bias.as_ref().unwrap()[c];
            }
        }
        self.store(out)
    }

    fn layer_norm(&self, x: &Tensor, norm: &Affine, eps: f64) -> Result<Tensor, Infallible> {
        let mut out = x.as_standard_layout().into_owned();
        for mut row in out.rows_mut() {
            let row = row.as_slice_mut().unwrap();
            normalise(row, eps);
            for (c, x) in row.iter_mut().enumerate() {
                *x = *x * norm.weight[c] + norm.bias.as_ref().unwrap()[c];
            }
        }
        self.store(out)
    }

    fn attention(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        heads: usize,
        options: AttentionOptions,
    ) -> Result<Tensor, Infallible> {
        let scores_in = match self.0 {
            DType::F16 | DType::BF16 if options.upcast => DType::F32,
            dtype => dtype,
        };
        let [query, key, value] = [query, key, value].map(|t| t.view().into_dimensionality::<Ix3>().unwrap());
        let (batch, n, channels) = query.dim();
        let per_head = channels / heads;
        let mut out = ArrayD::zeros(IxDyn(&[batch, n, channels]));
        for b in 0..batch {
            for head in 0..heads {
                let range = s![b, .., head * per_head..(head + 1) * per_head];
                let (q, k, v) = (query.slice(range), key.slice(range), value.slice(range));
                let mut scores = q.dot(&k.t()) / (per_head as f64).sqrt();
                for (i, mut row) in scores.rows_mut().into_iter().enumerate() {
                    if options.causal {
                        row.slice_mut(s![i + 1..]).fill(f64::NEG_INFINITY);
                    }
                    let largest = row.fold(f64::NEG_INFINITY, |a, x| a.max(*x));
                    row.mapv_inplace(|x| round_to(scores_in, (round_to(scores_in, x) - largest).exp()));
                    let sum = row.sum();
                    row.mapv_inplace(|x| round_to(scores_in, x / sum));
                }
                out.slice_mut(range).assign(&scores.dot(&v));
            }
        }
        self.store(out)
    }

    fn geglu(&self, x: &Tensor) -> Result<Tensor, Infallible> {
        let last = Axis(x.ndim() - 1);
        let (u, g) = x.view().split_at(last, x.len_of(last) / 2);
        self.store(&u * &g.mapv(gelu))
    }

    fn gelu(&self, x: &Tensor) -> Result<Tensor, Infallible> {
        self.store(x.mapv(gelu))
    }

    fn quick_gelu(&self, x: &Tensor) -> Result<Tensor, Infallible> {
        self.store(x.mapv(|x| x / (1.0 + (-1.702 * x).exp())))
    }

    fn silu(&self, x: &Tensor) -> Result<Tensor, Infallible> {
        self.store(x.mapv(|x| x / (1.0 + (-x).exp())))
    }

    fn upsample_to(&self, image: &Tensor, height: usize, width: usize) -> Result<Tensor, Infallible> {
        let (batch, channels) = (image.shape()[0], image.shape()[1]);
        let (h, w) = (image.shape()[2], image.shape()[3]);
        self.store(ArrayD::from_shape_fn(IxDyn(&[batch, channels, height, width]), |i| {
            image[[i[0], i[1], i[2] * h / height, i[3] * w / width]]
        }))
    }

    fn concat_channels(&self, first: &Tensor, second: &Tensor) -> Result<Tensor, Infallible> {
        self.store(concatenate(Axis(1), &[first.view(), second.view()]).unwrap())
    }

    fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor, Infallible> {
        assert_eq!(x.shape(), y.shape(), "shapes of a sum");
        self.store(x.as_ref() + y.as_ref())
    }

    fn add_channel_bias(&self, image: &Tensor, bias: &Tensor) -> Result<Tensor, Infallible> {
        assert_eq!(image.shape()[..2], bias.shape()[..], "shape of a bias");
        self.store(image.as_ref() + &bias.view().insert_axis(Axis(2)).insert_axis(Axis(3)))
    }

    fn scale(&self, x: &Tensor, factor: f64) -> Result<Tensor, Infallible> {
        self.store(x.mapv(|x| x * factor))
    }

    fn image_to_tokens(&self, image: &Tensor) -> Result<Tensor, Infallible> {
        let (batch, channels) = (image.shape()[0], image.shape()[1]);
        let pixels = image.shape()[2] * image.shape()[3];
        let flat = image.as_standard_layout().into_owned().into_shape_with_order((batch, channels, pixels));
        self.store(flat.unwrap().permuted_axes([0, 2, 1]).as_standard_layout().into_owned().into_dyn())
    }

    fn tokens_to_image(&self, tokens: &Tensor, height: usize, width: usize) -> Result<Tensor, Infallible> {
        let tokens = tokens.view().into_dimensionality::<Ix3>().unwrap();
        let (batch, _, channels) = tokens.dim();
        let planes = tokens.permuted_axes([0, 2, 1]).as_standard_layout().into_owned();
        self.store(planes.into_shape_with_order(vec![batch, channels, height, width]).unwrap())
    }

    fn embed(&self, table: &Tensor, ids: ArrayView2<'_, u32>) -> Result<Tensor, Infallible> {
        let (batch, n) = ids.dim();
        let channels = table.shape()[1];
        self.store(ArrayD::from_shape_fn(IxDyn(&[batch, n, channels]), |i| {
            table[[ids[[i[0], i[1]]] as usize, i[2]]]
        }))
    }

    fn image_size(&self, image: &Tensor) -> [usize; 2] {
        [image.shape()[2], image.shape()[3]]
    }
}
